"""Where the text begins: with ``position_mode='shift'`` learned positions are counted from P on.

A prefix made of real tokens took the first P positions; the text behind it must have the next ones. Rotary and
relative positions need no shift, for a prefix can be computed at positions -P..-1 instead (see `initialize`). Learned
ones sit in an embedding table, and the shift is made there: however a model counts its positions, it looks them up.
Where one softmax is over a decoder's text and its encoder's states, the rotary embedding is such a place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .anatomy.lookups import LookUp, Shift
from .anatomy.watching import anatomy_of
from .hook import (
    CHILD,
    add_forward_pre_hook,
    current_call,
    is_wrapper,
    remove_forward_pre_hook,
    unwrap_forward,
    wrap_forward,
)
from .layer import PrefixLayer, prefix_layers


def place(model: PreTrainedModel) -> None:
    """Let the positions that ``model`` looks up follow the prefixes that are attached now."""
    layers = prefix_layers(model)
    if anatomy_of(model).hears_of_positions:
        (add_forward_pre_hook if layers else remove_forward_pre_hook)(model, _from_the_mask)
    for role, look_ups in anatomy_of(model).positions.items():
        shifting = [layer for layer in layers if layer.site.role == role and layer.shifts()]
        for look_up in look_ups:
            module = model.get_submodule(look_up.module)
            if isinstance(module._modules.get(CHILD), PrefixLayer):
                continue  # an attention module that looks positions up by itself: its own door sees to it
            if shifting and _is_over(module, shifting[0]):
                continue  # as it must be; other threads may be running it
            unwrap_forward(module, _forward)
            if shifting and not _is_under_a_hook(module, shifting[0]):
                wrap_forward(module, _forward, shifting[0], look_up)


def _is_over(module: nn.Module, layer: PrefixLayer) -> bool:
    """Whether the ``forward`` of ``module`` is the one that follows ``layer``."""
    forward = vars(module).get("forward")
    return is_wrapper(forward, _forward) and forward.args[2] is layer


def _is_under_a_hook(module: nn.Module, layer: PrefixLayer) -> bool:
    """Whether Accelerate has put a hook over what would do the same."""
    forward = vars(module).get("_old_forward")
    return is_wrapper(forward, _forward) and forward.args[2] is layer


def _forward(
    module: nn.Module, forward: Callable[..., Any], layer: PrefixLayer, look_up: LookUp, *args: Any, **kwargs: Any
) -> Any:
    with shifted(module, layer, look_up, (*args, *kwargs.values())):
        return forward(*args, **kwargs)


def shifted(
    module: nn.Module, layer: PrefixLayer, look_up: LookUp, arguments: Sequence[Any]
) -> AbstractContextManager[Any]:
    """While ``module`` runs with these arguments: what it looks up is shifted as the prefixes of ``layer`` ask."""
    call = current_call()
    if call is not None and call.watcher is not None:
        return nullcontext()
    rows, lengths = (None, None) if call is None else (call.rows, call.lengths)
    batch = next((arg.shape[0] for arg in arguments if isinstance(arg, Tensor) and arg.dim() > 1), 1)
    if rows is not None and batch == 1:
        batch = len(rows)  # positions that all rows share until now
    return Shift(look_up.table_of(module), look_up.function, layer.shift(batch, rows, lengths))


def _from_the_mask(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Give a model the positions for which ``generate`` does not know to ask: the first token's is 0, after padding.

    Without a prefix it is all the same to rotary attention where a padded row begins to count.
    """
    mask, text = kwargs.get("attention_mask"), kwargs.get("input_ids", kwargs.get("inputs_embeds"))
    if kwargs.get("position_ids") is not None or all(layer.disable_adapters for layer in prefix_layers(model)):
        return None
    if not isinstance(text, Tensor) or not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    counted = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return args, kwargs | {"position_ids": counted[:, -text.shape[1] :]}
