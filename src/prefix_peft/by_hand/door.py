"""The way in for such modules: their own ``forward``, with a mode around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from ..hook import CHILD, current_call, is_wrapper, unwrap_forward, wrap_forward
from ..layer import PrefixLayer
from ..positions import shifted
from . import longformer
from .modes import Serve, Watch


def open_door(module: nn.Module) -> None:
    """Let the prefix that hangs on ``module`` take part in what it computes. Harmless to repeat."""
    longformer.make_readable(module)
    if not is_open(module):
        wrap_forward(module, _through)


def close_door(module: nn.Module) -> None:
    """Undo `open_door`. A door that cannot be closed lets all pass through once there is no prefix."""
    longformer.undo(module)
    unwrap_forward(module, _through)


@contextmanager
def opened(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Doors open inside the ``with`` block; those that were open before stay so."""
    shut = [module for module in modules if not is_open(module)]
    for module in shut:
        open_door(module)
    try:
        yield
    finally:
        for module in shut:
            close_door(module)


def is_open(module: nn.Module) -> bool:
    """Whether `open_door` was here, and no other came after it but Accelerate's hooks, which keep what they found."""
    return any(is_wrapper(vars(module).get(name), _through) for name in ("forward", "_old_forward"))


def _through(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    call = current_call()
    if call is not None and call.watcher is not None:
        watcher = call.watcher
        with Watch(lambda query, key, value, _: watcher(module, query, key, value, 0)):
            return forward(*args, **kwargs)
    layer = module._modules.get(CHILD)
    if not isinstance(layer, PrefixLayer) or layer.disable_adapters:
        return forward(*args, **kwargs)
    rows, look_up = None if call is None else call.rows, layer.site.look_up
    shift = nullcontext() if look_up is None else shifted(module, layer, look_up, (*args, *kwargs.values()))
    observer = None if call is None else call.observer
    with shift, Serve(module, layer.site, partial(layer, rows=rows), observer):
        return forward(*args, **kwargs)
