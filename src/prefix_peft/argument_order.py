"""The arguments of torch's functions, in the same places whether they are given by name or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# By the name of the function: what it calls its first arguments, in their order.
NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("matmul", "mul", "multiply", "div", "divide", "true_divide", "sub"), ("input", "other")),
    **dict.fromkeys(("softmax", "logsumexp", "exp", "baddbmm"), ("input",)),
    **dict.fromkeys(("index_select", "gather"), ("input", "dim", "index")),
    "bmm": ("input", "mat2"),
}


def in_order(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """The same arguments, but those of `NAMES` in their places."""
    names = [name for name in NAMES.get(getattr(function, "__name__", ""), ()) if name in kwargs]
    rest = {name: arg for name, arg in kwargs.items() if name not in names}
    return (*args, *(kwargs[name] for name in names)), rest
