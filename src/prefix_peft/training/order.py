"""The order in which a run reads its pairs: it depends on the seed, the epoch and the size of a step alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LENGTH_WINDOW = 50  # steps whose pairs are sorted together


def order_of_epoch(count: int, seed: int) -> list[int]:
    """The numbers of all pairs, in a random order."""
    return _shuffled(count, torch.Generator().manual_seed(seed))


def order_by_length(lengths: Sequence[int], pairs_a_step: int, seed: int) -> list[int]:
    """The same, but the pairs of one step come from a window of like lengths; the steps are in a random order."""
    generator = torch.Generator().manual_seed(seed)
    order = _shuffled(len(lengths), generator)
    window = pairs_a_step * LENGTH_WINDOW
    by_length = [
        pair
        for start in range(0, len(order), window)
        for pair in sorted(order[start : start + window], key=lengths.__getitem__)
    ]
    steps = [by_length[start : start + pairs_a_step] for start in range(0, len(order), pairs_a_step)]
    whole, rest = (steps[:-1], steps[-1]) if len(steps[-1]) < pairs_a_step else (steps, [])
    return [pair for i in _shuffled(len(whole), generator) for pair in whole[i]] + rest


def _shuffled(count: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=generator).tolist()
