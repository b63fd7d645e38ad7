"""The words nearest to each virtual token, at the first layer that attends.

There, and only there, a word has one key and one value whatever stands before it, but for its position; so every word
of the vocabulary is read where each virtual token is thought to be (as in `reading`), and compared with it by the
cosine of keys and of values, all heads together. A prefix that was started from words and never trained gives these
words back with cosine 1. What a trained one does in deeper layers, where most of its work is done, this does not show;
nor do near words mean that the prefix acts as if they were read. Keys of one layer are often all alike: a cosine says
something only beside that of an ordinary word, which is given as well.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..anatomy.source import reads_tokens
from ..anatomy.trial import undisturbed, vocabulary
from ..bars import bar
from ..by_hand.door import opened
from ..hook import Call, calling
from ..layer import PrefixLayer, prefix_layers
from ..reading import inputs_of, positions_of
from .masses import shown

AT_ONCE = 4096  # tokens in one pass


@dataclass(frozen=True)
class NearWord:
    """A word, and its key's and value's cosines with those of a virtual token."""

    text: str
    key_cosine: float
    value_cosine: float


@dataclass(frozen=True)
class NearWords:
    """Of one virtual token: the nearest first, and the median over the vocabulary of the mean of both cosines."""

    words: list[NearWord]
    median: float


@torch.no_grad()
def nearest_words(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, most: int = 5, adapter_name: str | None = None
) -> list[NearWords]:
    """For each virtual token the ``most`` words with the highest mean of the key's and the value's cosine.

    Reads vocabulary x P tokens, but no further than the first layer with a prefix that no other text reaches.

    Raises:
        ValueError: an unknown adapter, or one that has no prefix in an encoder or decoder.
        NotImplementedError: the model reads something else than tokens.
    """
    base: Any = model.get_base_model()
    name = model.active_adapters[0] if adapter_name is None else adapter_name
    layer = _first(base, name)
    count = min(vocabulary(base), len(tokenizer))
    key, value = layer.encoder(name)()
    ours = [_rows(key[None]), _rows(value.chunk(layer.site.turns, dim=-1)[0][None])]
    cosines = [[], []]
    for chunk in bar(
        torch.arange(count).split(max(1, AT_ONCE // key.shape[1])), desc="reading the words", unit="chunk"
    ):
        for side, read in enumerate(_read(base, layer, chunk, key.shape[1])):
            cosines[side].append((_rows(read) * ours[side].to(read)).sum(-1).cpu())
    keys, values = (torch.cat(side) for side in cosines)
    return _ranked(keys, values, tokenizer, most)


def _ranked(keys: Tensor, values: Tensor, tokenizer: PreTrainedTokenizerBase, most: int) -> list[NearWords]:
    """From cosines (V, P) of all words."""
    both = (keys + values) / 2
    best, medians = both.topk(min(most, len(both)), dim=0).indices, both.median(dim=0).values
    return [
        NearWords(
            [NearWord(shown(tokenizer, int(w)), float(keys[w, j]), float(values[w, j])) for w in best[:, j]],
            float(medians[j]),
        )
        for j in range(best.shape[1])
    ]


def _first(base: PreTrainedModel, name: str) -> PrefixLayer:
    if not reads_tokens(base):
        raise NotImplementedError(f"{type(base).__name__} reads {base.main_input_name}, and no words.")
    layers = [layer for layer in prefix_layers(base) if name in layer.config and layer.site.role != "cross"]
    if not layers:
        raise ValueError(f"no encoder or decoder site has a prefix {name!r}; words are compared at the first of these.")
    return next((layer for layer in layers if layer.site.role == "decoder"), layers[0])


class _Read(Exception):
    """Stops a model when its keys and values have been seen."""


def _read(base: PreTrainedModel, layer: PrefixLayer, words: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values (n, G, P, D) of ``words`` (n,) at each of the P places of a prefix: a text of nothing else."""
    tokens = words[:, None].expand(-1, length)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, turn: int) -> None:
        if module is layer.get_base_layer():
            first = layer.site.sees_encoder or layer.site.by_hand  # behind are the encoder's states, or padding
            place = slice(length) if first else slice(-length, None)
            seen.append((key[:, :, place].float(), value[:, :, place].float()))
            raise _Read

    inputs, positions = inputs_of(base, tokens, tokens), positions_of(base, tokens, tokens)
    module = [layer.get_base_layer()] if layer.site.by_hand else []
    with undisturbed(base), opened(module), calling(Call(watcher=keep)), suppress(_Read):
        try:
            base(**inputs, **positions)
        except (TypeError, ValueError, IndexError, RuntimeError):  # not every model has positions below 0
            base(**inputs)
    return seen[0]


def _rows(tensor: Tensor) -> Tensor:
    """(n, G, P, D) as directions (n, P, G x D)."""
    return F.normalize(tensor.float().transpose(1, 2).flatten(2), dim=-1)
