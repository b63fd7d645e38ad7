"""The loss on the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn

from ..data.batches import IGNORED
from ..ranks.sharing import summed

# Of (model, batch, is_encoder_decoder): the sum over the target tokens of a batch, and how many they are. A sum, so
# that steps made of unequal batches, on one device or several, weigh every token alike.
Loss = Callable[[nn.Module, dict[str, Tensor], bool], tuple[Tensor, Tensor]]


def target_loss(model: nn.Module, batch: dict[str, Tensor], is_encoder_decoder: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the target tokens of a batch, and how many they are."""
    labels = batch["labels"]
    if is_encoder_decoder:
        logits = model(**batch).logits  # the labels, shifted, are also what the decoder reads
    else:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        first = max(1, int((labels != IGNORED).any(0).int().argmax()))  # column with a target in any row
        kept = labels.shape[1] - first + 1
        # columns, not a number: the states they take are a copy, which a frozen head multiplies at once, not row by row
        columns = torch.arange(first - 1, labels.shape[1], device=labels.device)
        fewer = {"logits_to_keep": columns} if _computes_last_logits(model) else {}
        logits, labels = model(**inputs, use_cache=False, **fewer).logits[:, -kept:-1], labels[:, first:]
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss, (labels != IGNORED).sum()


def _computes_last_logits(model: nn.Module) -> bool:
    """Whether a causal model can leave out the logits before the first target, a large part of its work."""
    model = extract_model_from_parallel(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in signature(base.forward).parameters


@torch.no_grad()
def mean_loss(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], is_encoder_decoder: bool, loss_of: Loss = target_loss
) -> float:
    """Nats per target token over all batches of all ranks, in eval mode; the model's mode is as it was afterwards."""
    training = model.training
    model.eval()
    total = tokens = 0.0
    for batch in batches:
        loss, count = loss_of(model, batch, is_encoder_decoder)
        total, tokens = total + loss.item(), tokens + count.item()
    model.train(training)
    total, tokens = summed(total, tokens)
    return total / tokens
