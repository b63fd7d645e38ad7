"""Look-ups of positions: the functions by which models read a table of positions, and which argument says where.

Where there is no table, a module that holds nothing multiplies positions by frequencies, which it computes as well.
Rotary embeddings, which hold no parameters either, begin with ``float()`` of the positions that they are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode

from ..argument_order import in_order
from .trial import DECODER_TOKENS, ENCODER_TOKENS

# By the name of the function: which argument is the table, and which the rows that are asked for.
ARGUMENTS = {
    "embedding": (1, 0),
    "index_select": (0, 2),
    "gather": (0, 2),
    "__getitem__": (0, 1),
    "mul": (1, 0),
    "float": (0, 0),
}
COMPUTED = ("mul", "float")  # without a table
ALONG_A_DIMENSION = ("index_select", "gather")


class LookUp(NamedTuple):
    """Where a model looks its positions up."""

    module: str
    function: str
    table: str | None  # the attribute of the module; None for what it makes up, or copies for each row of the batch

    def table_of(self, module: nn.Module) -> Tensor | None:
        """The table, whose module this is."""
        return None if self.table is None else getattr(module, self.table)


class PositionWatch(TorchFunctionMode):
    """Finds the look-ups of positions: consecutive rows are asked for although all tokens are equal."""

    def __init__(self, running: Sequence[nn.Module]) -> None:
        super().__init__()
        self.running = running  # the innermost module last
        self.found: dict[nn.Module, tuple[str, str | None]] = {}  # function and table of the look-up
        self.rotary: dict[nn.Module, tuple[str, str | None]] = {}  # the same where positions become angles

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = in_order(func, args, kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ARGUMENTS and len(args) > max(ARGUMENTS[name]) and self.running:
            module = self.running[-1]
            tables = {id(tensor): key for key, tensor in (*module._parameters.items(), *module._buffers.items())}
            table = tables.get(id(args[ARGUMENTS[name][0]]))
            bare = not (module._parameters or module._modules)
            computed = name == "mul" and bare and not module._buffers
            fits, found = table or computed or name == "gather", self.found
            if name == "float":
                fits, found = bare, self.rotary
            if fits and _asks_for_each_token(name, args):
                found.setdefault(module, (name, table))
        return func(*args, **kwargs)


def _asks_for_each_token(function: str, args: Sequence[Any]) -> bool:
    """Whether the rows are as many as there are tokens, one after the other, and not the whole table."""
    rows, size = _rows(function, args), _size(function, args)
    if rows is None or not rows.numel():
        return False
    rows = rows.movedim(args[1], -1) if function == "gather" else rows.flatten()
    count = rows.shape[-1]
    sliced = any(isinstance(arg, slice) for arg in args)
    of_tokens = count in (ENCODER_TOKENS, DECODER_TOKENS) if sliced else count > 1
    return of_tokens and count < size and bool((rows.diff() == 1).all())


def _rows(function: str, args: Sequence[Any]) -> Tensor | None:
    rows = args[ARGUMENTS[function][1]]
    if isinstance(rows, tuple) and rows[1:] == (slice(None),) * (len(rows) - 1):
        rows = rows[0]  # whole rows are asked for, in so many words
    if isinstance(rows, slice):
        return torch.arange(len(args[0]), device=args[0].device)[rows]
    return rows if isinstance(rows, Tensor) and rows.dtype in (torch.int32, torch.int64) else None


def _size(function: str, args: Sequence[Any]) -> float:
    """How many positions there are."""
    if function in COMPUTED:
        return inf
    return args[ARGUMENTS[function][0]].shape[args[1] if function in ALONG_A_DIMENSION else 0]


class Shift(TorchFunctionMode):
    """Adds to the rows that are asked of one table."""

    def __init__(self, table: Tensor | None, function: str, shift: int | Tensor) -> None:
        super().__init__()
        self.table: Tensor | None = table
        self.function: str = function
        self.shift: int | Tensor = shift

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = in_order(func, args, kwargs or {})
        if getattr(func, "__name__", "") == self.function:
            table, at = ARGUMENTS[self.function]
            rows = _rows(self.function, args) if self.table is None or args[table] is self.table else None
            if rows is not None:
                args = (*args[:at], self._shifted(rows, _size(self.function, args)), *args[at + 1 :])
        return func(*args, **kwargs)

    def _shifted(self, rows: Tensor, size: float) -> Tensor:
        shift = self.shift
        if isinstance(shift, Tensor):
            if rows.dim() < 2 or self.function == "mul":
                raise NotImplementedError(
                    "this model looks the positions of all rows up at once, so with position_mode='shift' the rows of "
                    "a batch cannot have prefixes of different lengths; run them apart."
                )
            shift = shift.to(rows.device).reshape(*shift.shape, *[1] * (rows.dim() - 2))
        rows = rows + shift
        if rows.device.type == "cpu" and rows.numel() and not is_compiling() and int(rows.max()) >= size:
            raise IndexError(
                f"position {int(rows.max())} is past the {size} learned positions of the model: behind a prefix with "
                f"position_mode='shift' the text begins {self.shift} positions later. Shorten the text."
            )
        return rows
