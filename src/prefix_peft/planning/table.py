"""A plan as tables: one device in several ways, then several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..commands.report import markdown_table
from .memory import Memory
from .request import Request
from .sharding import Share

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
PARTS = ("weights", "trained", "activations", "logits")


def ways(request: Request) -> list[Request]:
    """``request``, what takes less than it, and full fine-tuning for comparison."""
    half = replace(request, dtype="bfloat16", mixed_precision="no", bits=None, gradient_checkpointing=False)
    four = replace(half, bits=4)
    less = [half, *(replace(way, gradient_checkpointing=True) for way in (half, replace(half, bits=8)))]
    less += [four, replace(four, gradient_checkpointing=True)]
    return list(dict.fromkeys([request, *less, replace(request, bits=None, every_weight=True)]))


def one_device(counted: Mapping[Request, Memory], limit: int | None) -> str:
    """Ways as rows: the parts of a training step's peak, the peak, and what decoding takes."""
    rows = [
        [
            str(way),
            *_parts(memory),
            *_total(memory.training, limit),
            size(memory.cache),
            *_total(memory.decoding, limit),
        ]
        for way, memory in counted.items()
    ]
    head = ["one device", *PARTS, *_head("training", limit), "cache", *_head("decoding", limit)]
    return markdown_table(head, rows)


def several_devices(shares: Mapping[str, Share], limit: int | None) -> str:
    """Strategies as rows: the same of each device, with what it gathers and receives from the others."""
    rows = [
        [name, *_parts(share.memory), size(share.gathered), *_total(share.training, limit), size(share.received)]
        for name, share in shares.items()
    ]
    return markdown_table(["each device", *PARTS, "gathered", *_head("training", limit), "received a pass"], rows)


def size(number: int) -> str:
    """Bytes in words."""
    for unit, one in UNITS.items():
        if number >= one:
            return f"{number / one:.3g} {unit}" if number < 1000 * one else f"{number / one:,.0f} {unit}"
    return f"{number} B"


def _parts(memory: Memory) -> Sequence[str]:
    return [size(number) for number in (memory.weights, memory.states, memory.activations, memory.logits)]


def _total(number: int, limit: int | None) -> Sequence[str]:
    return [size(number)] if limit is None else [size(number), "yes" if number <= limit else "no"]


def _head(what: str, limit: int | None) -> Sequence[str]:
    return [what] if limit is None else [what, f"in {size(limit)}"]
