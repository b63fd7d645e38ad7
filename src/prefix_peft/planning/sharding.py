"""What each of N devices holds and receives when they train one prefix together, from the figures of a single one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .memory import Memory

LIVE_NUMBERS = 10**9  # DeepSpeed's stage3_max_live_parameters: how many gathered weights ZeRO-3 keeps at once
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Share:
    """Bytes, of one device."""

    memory: Memory  # its weights and states are this device's part
    gathered: int  # of others' weights, for a while
    received: int  # in each forward and backward pass

    @property
    def training(self) -> int:
        """The peak of a training step."""
        return self.memory.training + self.gathered


def ddp(memory: Memory, devices: int, dtype: torch.dtype) -> Share:
    """A model on each device. Gradients of the prefix alone are exchanged, through a buffer of their size."""
    gradients = FLOAT * memory.trained
    return Share(replace(memory, states=memory.states + gradients), 0, _part_of(2 * gradients, devices))


def zero2(memory: Memory, devices: int, dtype: torch.dtype) -> Share:
    """The same, but gradients and moments are shared out, which of a prefix are small anyway."""
    gradients, whole = FLOAT * memory.trained, ddp(memory, devices, dtype)
    states = gradients + (memory.states - gradients) // devices + gradients
    return replace(whole, memory=replace(memory, states=states))


def fsdp2(memory: Memory, devices: int, dtype: torch.dtype) -> Share:
    """Weights are shared out, and gathered a block at a time, the next one meanwhile; the output layer stays."""
    received = _part_of(2 * memory.weights - memory.head, devices)
    return Share(_shared_out(memory, devices), memory.head + 2 * memory.largest_layer, received)


def zero3(memory: Memory, devices: int, dtype: torch.dtype) -> Share:
    """Weights are shared out; those gathered last are kept while they are fewer than DeepSpeed's limit."""
    gathered = min(memory.weights, LIVE_NUMBERS * dtype.itemsize)
    return Share(_shared_out(memory, devices), gathered, _part_of(2 * memory.weights, devices))


STRATEGIES: dict[str, Callable[[Memory, int, torch.dtype], Share]] = {
    "ddp": ddp, "zero2": zero2, "fsdp2": fsdp2, "zero3": zero3,
}  # fmt: skip
SHARDED = ("fsdp2", "zero3")  # in which no device holds all weights


def _shared_out(memory: Memory, devices: int) -> Memory:
    return replace(memory, weights=-(-memory.weights // devices), states=-(-memory.states // devices))


def _part_of(whole: int, devices: int) -> int:
    """What comes from the other devices."""
    return whole * (devices - 1) // devices
