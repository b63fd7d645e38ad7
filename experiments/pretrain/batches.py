"""Batches of like lengths."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefix_peft.data.batches import collate, encode_pairs, padding_id

from .mixture import Mixture, Pair

WINDOW = 200  # examples that are sorted by length together
MOST_TOKENS = 160  # of a source and its target together; what is longer is left out

Batch = dict[str, Tensor]
Example = dict[str, list[int]]


class Stream:
    """Batches of at most ``tokens`` places without end, which depend on the seed and the shares alone."""

    def __init__(self, mixture: Mixture, tokenizer: PreTrainedTokenizerBase, tokens: int, seed: int):
        self.mixture, self.tokenizer, self.tokens = mixture, tokenizer, tokens
        self._random = Random(seed)
        self._left: list[Batch] = []

    def next(self, share: float) -> Batch:
        """The next one, of the mixture at that share of the budget or shortly before."""
        if not self._left:
            pairs = self.mixture.draw(WINDOW, self._random, share)
            drawn = batches(pairs, self.tokenizer, self.tokens, self.mixture.mask_token is not None)
            self._left = self._random.sample(drawn, len(drawn))
        return self._left.pop()


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
