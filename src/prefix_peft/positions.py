"""Where the text begins: with ``position_mode='shift'`` learned positions are counted from P on.

A prefix made of real tokens took the first P positions; the text behind it must have the next ones. Rotary and
relative positions need no shift, for a prefix can be computed at positions -P..-1 instead (see `initialize`). Learned
ones sit in an embedding table, and the shift is made there: however a model counts its positions, it looks them up.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from .hook import current_call
from .layer import PrefixLayer, prefix_layers
from .sites import anatomy_of


def place(model: PreTrainedModel) -> None:
    """Let the learned position tables of ``model`` follow the prefixes that are attached now."""
    anatomy = anatomy_of(model)
    for role, table_name in anatomy.position_tables.items():
        table = cast("nn.Embedding", model.get_submodule(table_name))
        vars(table).pop("forward", None)
        for layer in prefix_layers(model):
            shifts = any(config.position_mode == "shift" for config in layer.config.values())
            if shifts and layer.site.role == role:
                table.forward = partial(_shifted_forward, table, layer)
                break


def _shifted_forward(table: nn.Embedding, layer: PrefixLayer, *args: Any, **kwargs: Any) -> Tensor:
    forward = partial(type(table).forward, table)
    call = current_call()
    if call is not None and call.watcher is not None:
        return forward(*args, **kwargs)
    rows, lengths = (None, None) if call is None else (call.rows, call.lengths)
    batch = next((arg.shape[0] for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor) and arg.dim() > 1), 1)
    if rows is not None and batch == 1:
        batch = len(rows)  # positions that all rows share until now
    with _Shift(table.weight, layer.shift(batch, rows, lengths)):
        return forward(*args, **kwargs)


class _Shift(TorchFunctionMode):
    """Adds to the indices of one embedding table."""

    def __init__(self, weight: Tensor, shift: int | Tensor) -> None:
        super().__init__()
        self.weight, self.shift = weight, shift

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.embedding and args[1] is self.weight:
            args = (self._shifted(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))

    def _shifted(self, index: Tensor) -> Tensor:
        index = index + (self.shift.to(index.device) if isinstance(self.shift, Tensor) else self.shift)
        if index.device.type == "cpu" and index.numel() and not is_compiling() and int(index.max()) >= len(self.weight):
            raise IndexError(
                f"position {int(index.max())} is past the {len(self.weight)} learned positions of the model: behind a "
                f"prefix with position_mode='shift' the text begins {self.shift} positions later. Shorten the text."
            )
        return index
