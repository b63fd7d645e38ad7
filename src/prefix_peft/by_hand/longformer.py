"""Longformer and LED: each token attends to a band around it, cut into overlapping chunks and put together again.

The two methods that do this are a product of scores and a product of values; seen as such, and not into, they are like
any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .products import READERS, Product

SCORES, VALUES = "_sliding_chunks_query_key_matmul", "_sliding_chunks_matmul_attn_probs_value"


def banded_scores(method: Callable[..., Tensor], query: Tensor, key: Tensor, window: int) -> Tensor:
    """query, key (B, T, H, D) -> (B, T, H, 2 * window + 1)."""
    if has_torch_function_variadic(query, key):
        return handle_torch_function(banded_scores, (query, key), method, query, key, window)
    return method(query, key, window)


def banded_values(method: Callable[..., Tensor], weights: Tensor, value: Tensor, window: int) -> Tensor:
    """weights (B, T, H, 2 * window + 1), value (B, T, H, D) -> (B, T, H, D)."""
    if has_torch_function_variadic(weights, value):
        return handle_torch_function(banded_values, (weights, value), method, weights, value, window)
    return method(weights, value, window)


def _read_scores(method: Callable[..., Any], query: Tensor, key: Tensor, window: int) -> Product:
    return Product(query, key, "bxhd", "byhd", "bxhy")


def _read_values(method: Callable[..., Any], weights: Tensor, value: Tensor, window: int) -> Product:
    return Product(weights, value, "bxhy", "byhd", "bxhd")


READERS |= {"banded_scores": _read_scores, "banded_values": _read_values}


def make_readable(module: nn.Module) -> None:
    """Let the two methods of ``module``, if it has them, be seen by a mode as products. Harmless to repeat."""
    for name, function in ((SCORES, banded_scores), (VALUES, banded_values)):
        if hasattr(type(module), name) and name not in vars(module):
            vars(module)[name] = partial(function, getattr(module, name))


@contextmanager
def readable(model: nn.Module) -> Iterator[None]:
    """All modules of ``model`` made readable inside the ``with`` block."""
    for module in model.modules():
        make_readable(module)
    try:
        yield
    finally:
        for module in model.modules():
            undo(module)


def undo(module: nn.Module) -> None:
    """Undo `make_readable`."""
    for name in (SCORES, VALUES):
        vars(module).pop(name, None)
