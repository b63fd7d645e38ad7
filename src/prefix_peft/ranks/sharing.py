"""How the ranks of a launch share what there is to do, so that the outcome does not depend on how many they are.

Every rank has all the data and takes every so manieth example of each optimizer step. Nothing is doubled to make the
shares even: a rank that has no example left takes part with one that counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

from ..data.batches import IGNORED

Example = dict[str, list[int]]
Item = TypeVar("Item")


def shared_batches(
    examples: Sequence[Example], size: int, collate: Callable[[Sequence[Example]], dict[str, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """This rank's batches of ``examples``, at most ``size`` in each, on its device; as many batches as on all ranks.

    Forward and backward passes are something that ranks do together. So where the examples do not go round, the last
    batch of some is one example without targets, whose loss and gradient are exactly 0.
    """
    state = PartialState()
    own = examples[state.process_index :: state.num_processes]
    for start in range(0, math.ceil(len(examples) / state.num_processes), size):
        batch = collate(own[start : start + size] or [without_targets(examples[0])])
        yield {key: value.to(state.device) for key, value in batch.items()}


def without_targets(example: Example) -> Example:
    """The same example with nothing to predict."""
    return {"input_ids": example["input_ids"], "labels": [IGNORED] * len(example["labels"])}


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """What of ``items`` falls to this rank; all of it where there is one."""
    state = PartialState()
    return items[state.process_index :: state.num_processes]


def from_all(items: Sequence[Item]) -> list[Item]:
    """What every rank found in its share, put back into the order of what was shared."""
    parts: list[Any] = gather_object([list(items)])
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def summed(*numbers: float) -> list[float]:
    """Each number summed over all ranks."""
    state = PartialState()
    if state.num_processes == 1:
        return list(numbers)
    total: Any = reduce(torch.tensor(numbers, dtype=torch.float64, device=state.device), reduction="sum")
    return total.tolist()
