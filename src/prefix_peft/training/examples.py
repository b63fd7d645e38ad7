"""A prefix that starts from training pairs, read in the form in which they are trained on.

Li & Liang (2021, section 7.4) start from words of the task, where examples are few. The examples themselves say more of
it: the longer a prefix, the more it gains by them.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor

from ..data.batches import EncodedPairs
from ..initialize import start
from ..layer import prefix_layers
from .order import order_of_epoch


def start_from_pairs(model: PeftModel, pairs: EncodedPairs, seed: int) -> None:
    """Let a new prefix be the activations of a few pairs, as many as fit into P tokens, or of the beginning of one."""
    longest = max(layer.length_of("default") for layer in prefix_layers(model))
    examples = [pairs[number] for number in fitting(pairs, longest, seed)]
    tokens = _joined([example["input_ids"] for example in examples])
    decoder_tokens = _joined([example["labels"] for example in examples]) if model.config.is_encoder_decoder else None
    start(model.get_base_model(), "default", tokens, decoder_tokens, chosen=True)


def fitting(pairs: EncodedPairs, length: int, seed: int) -> list[int]:
    """The numbers of pairs that together have at most ``length`` tokens, in a random order; or the first of all."""
    found, room, order = [], length, order_of_epoch(len(pairs), seed)
    for number in order:
        size = max(map(len, pairs[number].values()))
        if size <= room:
            found.append(number)
            room -= size
    return found or order[:1]


def _joined(texts: list[list[int]]) -> Tensor:
    return torch.tensor([token for text in texts for token in text])
