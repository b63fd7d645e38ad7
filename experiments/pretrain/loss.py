"""Cross-entropy, worked out only where there is a label: the head is a fifth of a small model's work."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from prefix_peft.data.batches import IGNORED

from .batches import Batch
from .guide import Guide


def total_loss(model: PreTrainedModel, batch: Batch, guide: Guide | None = None) -> tuple[Tensor, int, Tensor | float]:
    """Nats over all labels of the batch, how many labels those are, and the guide's loss, a mean (0 without one).

    Matrices are multiplied in bfloat16.
    """
    labels, inputs = batch["labels"], {key: value for key, value in batch.items() if key != "labels"}
    with torch.autocast(labels.device.type, torch.bfloat16):
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = _shifted(labels, model)
        else:
            labels = labels[:, 1:]
        outputs = model.base_model(**inputs, use_cache=False, output_attentions=guide is not None)
        states = outputs[0][:, : labels.shape[1]]  # (B, T, width)
        labelled = labels != IGNORED
        logits = model.get_output_embeddings()(states[labelled])
    guided = guide.loss(outputs, batch, model.config.is_encoder_decoder) if guide else 0.0
    return functional.cross_entropy(logits.float(), labels[labelled], reduction="sum"), int(labelled.sum()), guided


def _shifted(labels: Tensor, model: PreTrainedModel) -> Tensor:
    """What the decoder reads: the labels one place later."""
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].where(labels[:, :-1] != IGNORED, model.config.pad_token_id)], 1)


@torch.inference_mode()
def mean_loss(model: PreTrainedModel, batches: Iterable[Batch]) -> float:
    """Nats per label."""
    sums = [total_loss(model.eval(), batch) for batch in batches]
    return sum(loss.item() for loss, _, _ in sums) / sum(count for _, count, _ in sums)
