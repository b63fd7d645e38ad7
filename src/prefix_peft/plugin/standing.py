"""Standing before a function of another library."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

MARK = "prefix_peft"  # on what stands before a function: by whom


def stand_before(owner: type[Any], name: str, function: Callable[..., Any]) -> None:
    """Let ``function(original, ...)`` stand for a method or class method of ``owner``. Harmless to repeat."""
    held = vars(owner)[name]
    original = held.__func__ if isinstance(held, classmethod) else held
    by = f"{function.__module__}.{function.__qualname__}"
    known = getattr(original, MARK, ())
    if by in known:
        return

    @wraps(original)
    def standing(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    setattr(standing, MARK, (*known, by))
    setattr(owner, name, classmethod(standing) if isinstance(held, classmethod) else standing)
