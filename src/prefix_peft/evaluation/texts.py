"""What a model writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ..bars import bar
from ..data.batches import collate_prompts, encode_prompts, padding_id
from ..ranks.sharing import from_all, own_share


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
