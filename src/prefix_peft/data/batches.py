"""From (source, target) texts to padded batches, for causal models and encoder-decoders.

The loss is on the target and the end-of-sequence token only. A prompt for generation is made by the code that makes
the front of a training example, so it is that front token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # a label that torch's cross-entropy leaves out


@dataclass(frozen=True)
class EncodedPairs(Dataset[dict[str, list[int]]]):
    """Examples ``{"input_ids": [...], "labels": [...]}``, and how many pairs were too long to be read whole."""

    examples: list[dict[str, list[int]]]
    truncated: int
    longest: int = 0  # tokens of the longest pair, or of its longer side where they are read apart

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.examples[index]


class EncodedPrompts(list[list[int]]):
    """Token ids of each prompt, and how many of them lost text to a length limit."""

    def __init__(self, prompts: Iterable[list[int]], truncated: int) -> None:
        super().__init__(prompts)
        self.truncated = truncated


def encode_pairs(
    pairs: Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_encoder_decoder: bool,
    separator: str | None = None,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    too_long: str = "cut",
) -> EncodedPairs:
    """Training examples: the target to an encoder-decoder's source, or ``source + separator + " " + target``.

    Without a separator a causal model gets the form of the paper's code, ``" {source} {bos} {target} {eos}"``.
    A length counts tokens, separator and special tokens included; None means all that ``tokenizer.model_max_length``
    allows, which for a causal model always holds for the two together. What is too long loses its end, a source
    before the separator, a target before end-of-sequence; with ``too_long='drop'`` such a pair is left out.

    Raises:
        ValueError: what is too long would keep no text, nothing is left, or ``too_long='refuse'`` and a pair is.
    """
    if not pairs:
        raise ValueError("no pairs to encode; give at least one (source, target).")
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    source_parts = _source_parts(sources, tokenizer, is_encoder_decoder, separator)
    if is_encoder_decoder:
        target_parts = _decoder_parts(targets, tokenizer)
    else:
        target_parts = _completion_parts(sources, source_parts, targets, tokenizer, separator)
    source_limit = _limit(max_source_length, tokenizer, is_encoder_decoder)
    target_limit = _limit(max_target_length, tokenizer, is_encoder_decoder)
    examples, truncated, longest = [], 0, 0
    for source, target in zip(source_parts, target_parts, strict=True):
        together = source.tokens + target.tokens
        longest = max(longest, max(source.tokens, target.tokens) if is_encoder_decoder else together)
        whole = source.tokens <= source_limit and target.tokens <= target_limit
        whole = whole and (is_encoder_decoder or together <= tokenizer.model_max_length)
        truncated += not whole
        if whole or too_long == "cut":
            x, y = _fitted(source, target, (source_limit, target_limit), tokenizer, is_encoder_decoder)
            example = {"input_ids": x, "labels": y}
            joint = {"input_ids": x + y, "labels": [IGNORED] * len(x) + y}
            examples.append(example if is_encoder_decoder else joint)
    if truncated and (too_long == "refuse" or not examples):
        raise ValueError(
            f"{truncated} of {len(pairs)} pairs are longer than the model reads (the longest has {longest} tokens); "
            "cut them with --too-long cut, leave them out with --too-long drop, or shorten them."
        )
    return EncodedPairs(examples, truncated, longest)


def _fitted(
    source: _Parts,
    target: _Parts,
    limits: tuple[int, int],
    tokenizer: PreTrainedTokenizerBase,
    is_encoder_decoder: bool,
) -> tuple[list[int], list[int]]:
    """Both sides, each within its limit, and a causal model's together within its context."""
    source_limit, target_limit = limits
    y = target.fit(target_limit, "raise max_target_length")[0]
    room, advice = source_limit, "raise max_source_length"
    if not is_encoder_decoder and (left := tokenizer.model_max_length - len(y)) < room:
        room, advice = left, f"the target takes {len(y)} of the model's {left + len(y)}, limit max_target_length"
    return source.fit(room, advice)[0], y


def encode_prompts(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_encoder_decoder: bool,
    separator: str | None = None,
    max_source_length: int | None = None,
) -> EncodedPrompts:
    """What the model reads before it writes, for each source; lengths as in :func:`encode_pairs`.

    A causal model writes into the same context: there ``max_source_length`` has to leave room for the new tokens.
    """
    if not sources:
        raise ValueError("no sources to encode; give at least one.")
    parts = _source_parts(sources, tokenizer, is_encoder_decoder, separator)
    limit = _limit(max_source_length, tokenizer, is_encoder_decoder)
    fitted = [part.fit(limit, "raise max_source_length") for part in parts]
    return EncodedPrompts([ids for ids, _ in fitted], sum(cut for _, cut in fitted))


def collate(examples: Sequence[dict[str, list[int]]], pad_token_id: int, is_encoder_decoder: bool) -> dict[str, Tensor]:
    """Pad on the right: ``input_ids`` and ``attention_mask`` (B, S), ``labels`` (B, T); for a causal model T = S."""
    inputs, labels = [example["input_ids"] for example in examples], [example["labels"] for example in examples]
    if not is_encoder_decoder and any(len(x) != len(y) for x, y in zip(inputs, labels, strict=True)):
        raise ValueError("a causal model needs a label for every token; these examples are an encoder-decoder's.")
    return _padded(inputs, pad_token_id, "right") | {"labels": _pad(labels, IGNORED, "right")}


def collate_prompts(prompts: Sequence[list[int]], pad_token_id: int, is_encoder_decoder: bool) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` (B, S) for ``generate``: a causal model goes on from the right end of a
    row, so its rows are padded on the left."""
    return _padded(prompts, pad_token_id, "right" if is_encoder_decoder else "left")


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The pad token, or end-of-sequence where there is none (GPT-2); the attention mask hides it either way."""
    pad: Any = tokenizer.pad_token_id
    return _eos(tokenizer) if pad is None else pad


class _Parts(NamedTuple):
    """The token ids of a source or a target; only ``body`` may be cut."""

    front: list[int]
    body: list[int]
    end: list[int]

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.front) + len(self.body) + len(self.end)

    def fit(self, limit: int, advice: str) -> tuple[list[int], bool]:
        """All parts in at most ``limit`` tokens, and whether text was lost."""
        fixed = len(self.front) + len(self.end)
        if limit <= fixed:
            raise ValueError(
                f"no room for text in {limit} tokens: separator and special tokens take {fixed}; {advice}."
            )
        return self.front + self.body[: limit - fixed] + self.end, len(self.body) > limit - fixed


def _source_parts(
    sources: Sequence[str], tokenizer: PreTrainedTokenizerBase, is_encoder_decoder: bool, separator: str | None
) -> list[_Parts]:
    front, end = special_ids(tokenizer, sources, "text")
    if is_encoder_decoder:
        if separator is not None:
            raise ValueError(f"an encoder-decoder reads no separator, got {separator!r}; leave it out.")
        return [_Parts(front, body, end) for body in _ids(tokenizer, sources)]
    before, separator, _ = _causal_format(tokenizer, separator)
    heads = [before + source for source in sources]
    bodies = _ids(tokenizer, heads)
    ends = _continue(tokenizer, heads, bodies, [separator] * len(heads))
    # An end-of-sequence that the tokenizer adds by itself is left off: the text goes on with the target.
    return [_Parts(front, body, end) for body, end in zip(bodies, ends, strict=True)]


def _completion_parts(
    sources: Sequence[str],
    source_parts: Sequence[_Parts],
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    separator: str | None,
) -> list[_Parts]:
    before, separator, after = _causal_format(tokenizer, separator)
    prompts = [before + source + separator for source in sources]
    prompt_ids = [parts.body + parts.end for parts in source_parts]
    completions = _continue(tokenizer, prompts, prompt_ids, [f" {target}{after}" for target in targets])
    return [_Parts([], body, [_eos(tokenizer)]) for body in completions]


def _decoder_parts(targets: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[_Parts]:
    front, end = special_ids(tokenizer, targets, "text_target")
    end = end or [_eos(tokenizer)]
    return [_Parts(front, body, end) for body in _ids(tokenizer, targets, "text_target")]


def _causal_format(tokenizer: PreTrainedTokenizerBase, separator: str | None) -> tuple[str, str, str]:
    """What stands before the source, between source and target, and after the target.

    The paper's code (LineByLineData2TextTextDataset) has a space on each side of every part. Its last one is kept: a
    byte-level tokenizer makes it a token of its own, which the model learns to write before end-of-sequence.
    """
    if separator is not None:
        return "", separator, ""
    if tokenizer.bos_token is None:
        raise ValueError("the tokenizer has no bos token to part source and target; give a separator, such as ' =>'.")
    return " ", f" {tokenizer.bos_token}", " "


def _continue(
    tokenizer: PreTrainedTokenizerBase, starts: Sequence[str], start_ids: Sequence[list[int]], endings: Sequence[str]
) -> list[list[int]]:
    """Token ids of each ending as read after its start (SentencePiece reads a text's first word otherwise).

    Where a token spans the border the ending is read alone, so that the start is a prefix in any case.
    """
    wholes = _ids(tokenizer, [start + ending for start, ending in zip(starts, endings, strict=True)])
    return [
        whole[len(ids) :] if whole[: len(ids)] == ids else _ids(tokenizer, [ending])[0]
        for whole, ids, ending in zip(wholes, start_ids, endings, strict=True)
    ]


def special_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], side: str = "text"
) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text by itself, seen on the longest (an empty one would not tell)."""
    sample = max(texts, key=len)
    bare = _ids(tokenizer, [sample], side)[0]
    full = _ids(tokenizer, [sample], side, special=True)[0]
    start = next(i for i in range(len(full) + 1) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], side: str = "text", special: bool = False
) -> list[list[int]]:
    distinct = list(dict.fromkeys(texts))  # E2E pairs each source with eight references
    words: dict[str, Any] = {side: distinct}
    # Not verbose: a text beyond the model's length is no reason to warn here, it will be cut and counted.
    ids = tokenizer(**words, add_special_tokens=special, verbose=False)["input_ids"]
    found = dict(zip(distinct, ids, strict=True))
    return [found[text] for text in texts]


def _limit(wanted: int | None, tokenizer: PreTrainedTokenizerBase, is_encoder_decoder: bool) -> int:
    if wanted is None:
        return tokenizer.model_max_length
    # T5's tokenizer says 512 while the model reads any length: an encoder-decoder's user is taken at their word.
    return wanted if is_encoder_decoder else min(wanted, tokenizer.model_max_length)


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    eos: Any = tokenizer.eos_token_id
    if eos is None:
        raise ValueError("the tokenizer has no end-of-sequence token, so no text would ever end; set its eos_token.")
    return eos


def _padded(rows: Sequence[list[int]], pad_token_id: int, side: str) -> dict[str, Tensor]:
    mask = _pad([[1] * len(row) for row in rows], 0, side)  # by length: padding and end-of-sequence may share an id
    return {"input_ids": _pad(rows, pad_token_id, side), "attention_mask": mask}


def _pad(rows: Sequence[list[int]], value: int, side: str) -> Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
