"""Cross-entropy, worked out only where there is a label: the head is a fifth of a small model's work."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from prefix_peft.training.batches import IGNORED

from .batches import Batch


def total_loss(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, int]:
    """Nats over all labels of the batch, and how many labels those are; matrices are multiplied in bfloat16."""
    labels, inputs = batch["labels"], {key: value for key, value in batch.items() if key != "labels"}
    with torch.autocast(labels.device.type, torch.bfloat16):
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = _shifted(labels, model)
        else:
            labels = labels[:, 1:]
        states = model.base_model(**inputs, use_cache=False)[0][:, : labels.shape[1]]  # (B, T, width)
        labelled = labels != IGNORED
        logits = model.get_output_embeddings()(states[labelled])
    return functional.cross_entropy(logits.float(), labels[labelled], reduction="sum"), int(labelled.sum())


def _shifted(labels: Tensor, model: PreTrainedModel) -> Tensor:
    """What the decoder reads: the labels one place later."""
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].where(labels[:, :-1] != IGNORED, model.config.pad_token_id)], 1)


@torch.inference_mode()
def mean_loss(model: PreTrainedModel, batches: Iterable[Batch]) -> float:
    """Nats per label."""
    sums = [total_loss(model.eval(), batch) for batch in batches]
    return sum(loss.item() for loss, _ in sums) / sum(count for _, count in sums)
