"""Texts that the model itself writes behind a document: what a prefix that stands for the document is trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..bars import bar
from ..commands.arguments import DistillArguments
from ..data.batches import IGNORED, EncodedPairs, collate_prompts, encode_prompts, padding_id, special_ids
from ..data.lines import read_objects, read_texts, shown
from ..ranks.sharing import from_all, own_share
from ..whole import write_text

SAMPLES_FILE = "samples.jsonl"

Sample = tuple[list[int], list[int]]  # a prompt, and what the model wrote behind it


def prompts_for(arguments: DistillArguments, tokenizer: PreTrainedTokenizerBase, document: Tensor) -> list[list[int]]:
    """One prompt for each sample, those for validation last: of the file, again and again, or pieces of ``document``.

    Raises:
        ValueError: a file without a prompt, or a document shorter than a piece.
    """
    count = arguments.num_samples + arguments.num_validation_samples
    if arguments.prompts_file is not None:
        lines = read_lines(arguments.prompts_file)
        given = encode_prompts(lines, tokenizer, is_encoder_decoder=False, separator="")
        return [given[i % len(given)] for i in range(count)]
    length = arguments.prompt_length
    if length > len(document):
        raise ValueError(
            f"{arguments.document_file} has {len(document)} tokens, fewer than a piece of it: give a longer document "
            f"or a smaller --prompt-length than {length}."
        )
    generator = torch.Generator().manual_seed(arguments.seed)
    starts = torch.randint(len(document) - length + 1, (count,), generator=generator).tolist()
    front = special_ids(tokenizer, ["text"])[0]
    return [front + document[start : start + length].tolist() for start in starts]


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        ValueError: there are none, or one cannot be read.
    """
    return [line for _, line in read_texts(path)]


@torch.no_grad()
def continued(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int = 0,
) -> list[Sample]:
    """What ``model`` writes behind each prompt, drawn from its distribution as it is.

    Ranks share the batches, and each batch has random numbers of its own: the texts are the same on any number of them.
    """
    pad, end = padding_id(tokenizer), tokenizer.eos_token_id
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    own, samples = own_share(list(enumerate(batches))), []
    with bar(total=sum(len(rows) for _, rows in own), desc="writing behind the document", unit="text") as shown:
        for number, rows in own:
            torch.manual_seed(seed + number)
            batch = {key: value.to(model.device) for key, value in collate_prompts(rows, pad, False).items()}
            ids = model.generate(
                **batch, max_new_tokens=max_new_tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                pad_token_id=pad, eos_token_id=end,
            )  # fmt: skip
            written = ids[:, batch["input_ids"].shape[1] :].tolist()
            samples.append([(row, _up_to(end, new)) for row, new in zip(rows, written, strict=True)])
            shown.update(len(rows))
    return [sample for batch in from_all(samples) for sample in batch]


def _up_to(end: Any, ids: list[int]) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def encoded(samples: Sequence[Sample]) -> EncodedPairs:
    """Examples whose targets are what the model wrote."""
    return EncodedPairs([{"input_ids": x + y, "labels": [IGNORED] * len(x) + y} for x, y in samples], truncated=0)


def write_samples(path: Path, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> None:
    """JSON lines of token ids, with the text for whoever wants to read it."""
    lines = [json.dumps({"prompt": x, "written": y, "text": tokenizer.decode(x + y)}) + "\n" for x, y in samples]
    write_text(path, "".join(lines))


def read_samples(path: Path) -> list[Sample]:
    """What `write_samples` wrote; ValueError, which names the line, for anything else."""
    return [(_tokens(path, number, line, "prompt"), _tokens(path, number, line, "written"))
            for number, line in read_objects(path)]  # fmt: skip


def _tokens(path: Path, number: int, line: dict[str, Any], name: str) -> list[int]:
    tokens = line.get(name)
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise ValueError(f"{path}, line {number}: {name!r} must be a list of token ids, got {shown(tokens)}.")
    return tokens
