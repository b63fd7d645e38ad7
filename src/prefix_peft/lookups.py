"""Look-ups of positions: the functions by which models read a table of positions, and which argument says where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .trial import DECODER_TOKENS, ENCODER_TOKENS

# By the name of the function: which argument is the table, and which the rows that are asked for.
ARGUMENTS = {"embedding": (1, 0), "index_select": (0, 2), "gather": (0, 2), "__getitem__": (0, 1)}
ALONG_A_DIMENSION = ("index_select", "gather")


class LookUp(NamedTuple):
    """Where a model looks its positions up."""

    module: str
    function: str


def rows_of(function: Callable, args: Sequence[Any], module: nn.Module) -> Tensor | None:
    """The rows for which this call asks a table of ``module``, or None where it is no look-up."""
    name = getattr(function, "__name__", "")
    if name not in ARGUMENTS or len(args) <= max(ARGUMENTS[name]):
        return None
    table, rows = (args[i] for i in ARGUMENTS[name])
    own = any(table is tensor for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    if not own and name != "gather":  # from a table that has been repeated for each row of the batch
        return None
    if isinstance(rows, slice):
        return torch.arange(len(table), device=table.device)[rows]
    return rows if isinstance(rows, Tensor) and rows.dtype in (torch.int32, torch.int64) else None


def _size(function: str, args: Sequence[Any]) -> int:
    """How many positions the table has."""
    return args[ARGUMENTS[function][0]].shape[args[1] if function in ALONG_A_DIMENSION else 0]


class PositionWatch(TorchFunctionMode):
    """Finds the look-ups of positions: consecutive rows are asked for although all tokens are equal."""

    def __init__(self, running: Sequence[nn.Module]) -> None:
        super().__init__()
        self.running = running  # the innermost module last
        self.found: list[tuple[nn.Module, str]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        rows = rows_of(func, args, self.running[-1]) if self.running else None
        if rows is not None:
            rows = rows.movedim(args[1], -1) if func.__name__ == "gather" else rows.flatten()
            count = rows.shape[-1] if rows.numel() else 0
            of_tokens = count in (ENCODER_TOKENS, DECODER_TOKENS) if isinstance(args[1], slice) else count > 1
            if of_tokens and count < _size(func.__name__, args) and bool((rows.diff() == 1).all()):
                self.found.append((self.running[-1], func.__name__))
        return func(*args, **(kwargs or {}))


class Shift(TorchFunctionMode):
    """Adds to the rows that one module asks for."""

    def __init__(self, module: nn.Module, function: str, shift: int | Tensor) -> None:
        super().__init__()
        self.module, self.function, self.shift = module, function, shift

    def __torch_function__(self, func, types, args=(), kwargs=None):
        rows = rows_of(func, args, self.module) if getattr(func, "__name__", "") == self.function else None
        if rows is not None:
            _, at = ARGUMENTS[self.function]
            args = [*args]
            args[at] = self._shifted(rows, _size(self.function, args))
        return func(*args, **(kwargs or {}))

    def _shifted(self, rows: Tensor, size: int) -> Tensor:
        shift = self.shift
        if isinstance(shift, Tensor):
            shift = shift.to(rows.device).reshape(-1, *[1] * (rows.dim() - 1))
        rows = rows + shift
        if rows.device.type == "cpu" and rows.numel() and int(rows.max()) >= size:
            raise IndexError(
                f"position {int(rows.max())} is past the {size} learned positions of the model: behind a prefix with "
                f"position_mode='shift' the text begins {self.shift} positions later. Shorten the text."
            )
        return rows
