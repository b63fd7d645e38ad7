"""Rotary positions of a prefix's keys: moving them along while the text moves.

A query at position P + t meets a raw key k as a query at t meets R(-P) k, for rotary attention knows differences alone.
Which layers rotate, by which frequencies and which pairs of numbers, is not looked up: equal tokens are read at two
places, where their keys are the same but for their rotation, and each way of rotating is tried on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..anatomy.trial import vocabulary
from ..one_pass import KeysValues
from ..reading import read_activations, read_in_place

DISTANCE = 48  # between the places


@dataclass(frozen=True)
class Rotation:
    """Pairs of numbers of a key turn by their frequency times the position; (0 pairs: keys have no place)."""

    frequencies: Tensor  # (n,)
    interleaved: bool  # a pair is (2i, 2i + 1), not (i, n + i)
    start: int  # of the part that rotates

    def __call__(self, keys: Tensor, by: int) -> Tensor:
        """Keys (..., D) as if they stood ``by`` positions further on."""
        n = len(self.frequencies)
        if not n:
            return keys
        part = keys[..., self.start : self.start + 2 * n].double()
        pairs = part.unflatten(-1, (n, 2) if self.interleaved else (2, n))
        x, y = pairs.unbind(-1 if self.interleaved else -2)
        cos, sin = (by * self.frequencies).cos(), (by * self.frequencies).sin()
        turned = torch.stack([x * cos - y * sin, y * cos + x * sin], -1 if self.interleaved else -2).flatten(-2)
        return torch.cat([keys[..., : self.start], turned.to(keys), keys[..., self.start + 2 * n :]], dim=-1)


NONE = Rotation(torch.empty(0), interleaved=False, start=0)


def rotations_of(model: PreTrainedModel, sites: list[str]) -> dict[str, Rotation]:
    """By which rotation each site's keys know their place.

    Raises:
        ValueError: keys that change with their place in a way that is no rotation by known frequencies.
    """
    tokens = torch.full((1, DISTANCE), min(7, vocabulary(model) - 1))
    here, left = read_in_place(model, tokens, tokens), read_activations(model, tokens, tokens)
    if all(torch.equal(here[name][0], left[name][0]) for name in sites):  # a model that is not told positions
        tokens = torch.cat([tokens, tokens[:, :1]], dim=1)
        left = read_in_place(model, tokens, tokens)
        here = {name: (keys.roll(1, dims=1), values) for name, (keys, values) in left.items()}  # the last one first
    buffers = [b for name, b in model.named_buffers() if name.endswith("inv_freq") and "original" not in name]
    frequencies = [buffer.detach().double().cpu().flatten() for buffer in buffers]
    return {
        name: _rotation(name, here[name][0][:, 0].cpu(), left[name][0][:, 0].cpu(), frequencies, model.dtype)
        for name in sites
    }


def _rotation(site: str, here: Tensor, left: Tensor, frequencies: list[Tensor], dtype: torch.dtype) -> Rotation:
    """That which turns keys (G, D) ``here`` into those ``left`` by `DISTANCE` positions."""
    ways, width = [NONE], here.shape[-1]
    for rates in frequencies:
        starts = {0, width - 2 * len(rates)} if 2 * len(rates) <= width else set()
        ways += [Rotation(rates, interleaved, start) for start in starts for interleaved in (False, True)]
    errors = [float((way(here, -DISTANCE) - left).norm() / left.norm()) for way in ways]
    best = min(range(len(ways)), key=errors.__getitem__)
    if not errors[best] < torch.finfo(dtype).eps ** 0.5:
        raise ValueError(
            f"the keys of {site} change with their position, but by no rotation that was tried (closest: "
            f"{errors[best]:.1%} off), so a prefix cannot be moved along with the text."
        )
    return ways[best]


def moved(model: PreTrainedModel, parts: KeysValues, by: int) -> KeysValues:
    """The same prefix, its keys ``by`` positions further on."""
    rotations = rotations_of(model, list(parts))
    return {name: (rotations[name](keys, by), values) for name, (keys, values) in parts.items()}
