"""Batches of like lengths, without end, or of a fixed list of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefix_peft.training.batches import collate, encode_pairs, padding_id

from .mixture import Mixture, Pair

WINDOW = 600  # examples that are sorted by length together
MOST_TOKENS = 160  # of a source and its target together; what is longer is left out

Batch = dict[str, Tensor]
Example = dict[str, list[int]]


def stream(mixture: Mixture, tokenizer: PreTrainedTokenizerBase, tokens: int, seed: int) -> Iterator[Batch]:
    """Batches of at most ``tokens`` places, which depend on the seed alone."""
    for window in count():
        random = Random(f"{seed}, {window}")
        drawn = batches(mixture.draw(WINDOW, random), tokenizer, tokens, mixture.mask_token is not None)
        yield from random.sample(drawn, len(drawn))


def batches(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, tokens: int, is_encoder_decoder: bool
) -> list[Batch]:
    """All pairs but those that are too long, sorted by length, in batches of at most ``tokens`` places."""
    sized = [
        (_length(example, is_encoder_decoder), example) for example in _encode(pairs, tokenizer, is_encoder_decoder)
    ]
    rows: list[list[Example]] = [[]]
    for length, example in sorted((pair for pair in sized if pair[0] <= MOST_TOKENS), key=lambda pair: pair[0]):
        if rows[-1] and length * (len(rows[-1]) + 1) > tokens:
            rows.append([])
        rows[-1].append(example)
    return [collate(examples, padding_id(tokenizer), is_encoder_decoder) for examples in rows if examples]


def _length(example: Example, is_encoder_decoder: bool) -> int:
    return len(example["input_ids"]) + is_encoder_decoder * len(example["labels"])


def _encode(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, is_encoder_decoder: bool) -> list[Example]:
    examples = []
    for separator in dict.fromkeys(pair.separator for pair in pairs):
        texts = [(pair.source, pair.target) for pair in pairs if pair.separator == separator]
        encoded = encode_pairs(texts, tokenizer, is_encoder_decoder=is_encoder_decoder, separator=separator)
        examples += encoded.examples
    return examples
