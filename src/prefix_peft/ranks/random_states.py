"""The random states of all ranks: each draws numbers of its own, and goes on with them in a resumed run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import PartialState
from torch import Tensor

from .sharing import from_all


def random_states() -> dict[str, Tensor]:
    """By "cpu.RANK" and "cuda.RANK", which is the GPU of that rank. All ranks call it together."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    return {f"{kind}.{rank}": state for rank, states in enumerate(from_all([own])) for kind, state in states.items()}


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Let this rank go on where it was; one that was not there then keeps what it has."""
    rank = PartialState().process_index
    if f"cpu.{rank}" in states:
        torch.set_rng_state(states[f"cpu.{rank}"])
    if f"cuda.{rank}" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"cuda.{rank}"])
