"""Where the text begins: with ``position_mode='shift'`` learned positions are counted from P on.

A prefix made of real tokens took the first P positions; the text behind it must have the next ones. Rotary and
relative positions need no shift, for a prefix can be computed at positions -P..-1 instead (see `initialize`). Learned
ones sit in an embedding table, and the shift is made there: however a model counts its positions, it looks them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .hook import CHILD, current_call
from .layer import PrefixLayer, prefix_layers
from .lookups import Shift
from .sites import anatomy_of


def place(model: PreTrainedModel) -> None:
    """Let the positions that ``model`` looks up follow the prefixes that are attached now."""
    layers = prefix_layers(model)
    for role, look_ups in anatomy_of(model).positions.items():
        shifting = [layer for layer in layers if layer.site.role == role and layer.shifts()]
        for look_up in look_ups:
            module = model.get_submodule(look_up.module)
            if isinstance(module._modules.get(CHILD), PrefixLayer):
                continue  # an attention module that looks positions up by itself takes `shifted` by its own door
            vars(module).pop("forward", None)
            if shifting:
                module.forward = partial(_forward, module, shifting[0], look_up.function)


def _forward(module: nn.Module, layer: PrefixLayer, function: str, *args: Any, **kwargs: Any) -> Any:
    return shifted(partial(type(module).forward, module), module, layer, function)(*args, **kwargs)


def shifted(forward: Callable, module: nn.Module, layer: PrefixLayer, function: str) -> Callable:
    """``forward`` of ``module``, in which ``function`` looks positions up, with these shifted as ``layer`` says."""

    def run(*args: Any, **kwargs: Any) -> Any:
        call = current_call()
        if call is not None and call.watcher is not None:
            return forward(*args, **kwargs)
        rows = None if call is None else call.rows
        with Shift(module, function, layer.shift(_batch_size((*args, *kwargs.values()), rows), rows)):
            return forward(*args, **kwargs)

    return run


def _batch_size(arguments: Sequence[Any], rows: Sequence[str] | None) -> int:
    batch = next((arg.shape[0] for arg in arguments if isinstance(arg, Tensor) and arg.dim() > 1), 1)
    return len(rows) if rows is not None and batch == 1 else batch  # positions that all rows share until now
