"""The loss on the targets, and what a model writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..bars import bar
from .batches import IGNORED, collate_prompts, encode_prompts, padding_id
from .sharing import from_all, own_share, summed

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
        fewer = {"logits_to_keep": kept} if _computes_last_logits(model) else {}
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


@torch.inference_mode()
def generate_texts(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    separator: str | None = None,
    num_beams: int = 1,
    max_new_tokens: int = 100,
    max_source_length: int | None = None,
    batch_size: int = 16,
    description: str = "generating",
    **generation: Any,
) -> list[str]:
    """What ``model`` writes for each source, in their order, by beam search (greedy with one beam).

    ``generation`` are further options of transformers' GenerationConfig, such as ``length_penalty``.

    Ranks share the batches, which are those of one process; each has a model of its own and gets all texts.
    """
    seq2seq = model.config.is_encoder_decoder
    if not seq2seq and max_source_length is None:
        max_source_length = max(tokenizer.model_max_length - max_new_tokens, 1)
    prompts = encode_prompts(
        sources, tokenizer, is_encoder_decoder=seq2seq, separator=None if seq2seq else separator,
        max_source_length=max_source_length,
    )  # fmt: skip
    if prompts.truncated:
        print(
            f"{prompts.truncated:,} of {len(prompts):,} sources are longer than the model reads: cut.", file=sys.stderr
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of a batch are then of like length
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    own, written = own_share(batches), []
    with bar(total=sum(map(len, own)), desc=description, unit="text") as shown:
        for rows in own:
            batch = collate_prompts([prompts[i] for i in rows], padding_id(tokenizer), seq2seq)
            batch = {key: value.to(model.device) for key, value in batch.items()}
            ids = model.generate(
                **batch, num_beams=num_beams, max_new_tokens=max_new_tokens, do_sample=False,
                pad_token_id=padding_id(tokenizer), eos_token_id=tokenizer.eos_token_id, **generation,
            )  # fmt: skip
            new = ids if seq2seq else ids[:, batch["input_ids"].shape[1] :]
            written.append(tokenizer.batch_decode(new, skip_special_tokens=True))
            shown.update(len(rows))
    texts = [text.strip() for batch in from_all(written) for text in batch]
    return [text for _, text in sorted(zip(chain.from_iterable(batches), texts, strict=True))]
