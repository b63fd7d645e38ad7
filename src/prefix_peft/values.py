"""What a config may hold, whoever wrote it: values of the declared types, and expressions that are soon matched."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from numbers import Real
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

MOST_TOKENS = 2**20  # of a prefix: what is asked for must be refused before it is allocated
MOST_ENTRIES, DEEPEST = 10_000, 16  # of a list, and of lists within lists
LONGEST_EXPRESSION, MOST_EXPRESSIONS, MOST_WAYS = 500, 256, 10**7
REPEATS = 50  # how often something in a module's name may be repeated

TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\(\?[aiLmsux]+\)|\(\?P=|\((?:\?(?:P?<[^>=!]*>|<[=!]|[:=!>]|[\w-]*:))?"
    r"|(?:[*+?]|\{\d*,?\d*\})[?+]?|.",
    re.DOTALL,
)
QUANTIFIER = re.compile(r"(?:[*+?]|\{\d*,?\d*\})[?+]?")
REFERENCE = re.compile(r"\\[1-9]|\(\?P=")


def check_types(config: Any) -> None:
    """Refuse a value that is not of its field's type.

    Raises:
        TypeError: with the field, its type and the value.
        ValueError: a value of more entries, or nested deeper, than any config has.
    """
    declared = _declared(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        _check_size(field.name, value)
        if not _is(value, declared[field.name]):
            raise TypeError(f"{field.name} must be {field.type}, got {_shown(value)}.")


@cache
def _declared(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number from ``least`` to `MOST_TOKENS`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {_shown(value)}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {_shown(value)}.")
    if value > MOST_TOKENS:
        raise ValueError(f"{name} must be at most {MOST_TOKENS:,}, got {_shown(value)}.")


def check_expressions(name: str, expressions: Sequence[str]) -> None:
    """Refuse regular expressions of which one is none, or that can be tried in so many ways that it might never end.

    Raises:
        ValueError: with the field and the expression.
    """
    if len(expressions) > MOST_EXPRESSIONS:
        raise ValueError(f"{name} must have at most {MOST_EXPRESSIONS} expressions, got {len(expressions):,}.")
    ways = 0.0
    for expression in expressions:
        _check_compiles(name, expression)
        ways += _ways(iter(TOKEN.findall(expression)))
        if ways > MOST_WAYS:
            raise ValueError(
                f"{name} has the expression {_shown(expression)}, which can take forever on a name that it does not "
                "match; repeat no group that repeats or chooses, and at most four things."
            )


def _check_compiles(name: str, expression: str) -> None:
    fault = f"it is longer than {LONGEST_EXPRESSION} characters" if len(expression) > LONGEST_EXPRESSION else ""
    try:
        if not fault:
            re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        fault = str(error)
    if fault:
        raise ValueError(f"{name} has no valid expression {_shown(expression)}: {fault}.")


def _ways(tokens: Iterator[str]) -> float:
    """An upper bound of the ways in which a matcher may try an expression, up to its end or its closing parenthesis."""
    total, before, last = 0.0, 1.0, 1.0
    for token in tokens:
        if token == ")":
            break
        if token == "|":
            total, before, last = total + before * last, 1.0, 1.0
        elif QUANTIFIER.fullmatch(token):
            last = _repeated(last, token)
        else:
            before, last = before * last, 1.0
            if REFERENCE.fullmatch(token):
                last = math.inf
            elif token.startswith("(") and not token.endswith(")"):
                last = _ways(tokens)
    return total + before * last


def _repeated(ways: float, quantifier: str) -> float:
    if quantifier.startswith("?"):
        return ways + 1
    return REPEATS if ways == 1 else math.inf


def _is(value: Any, declared: Any) -> bool:
    origin, parts = get_origin(declared), get_args(declared)
    if declared is Any:
        return True
    if origin in (Union, UnionType):
        return any(_is(value, part) for part in parts)
    if origin is list:
        return isinstance(value, (list, tuple, set)) and all(_is(entry, parts[0]) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(k, parts[0]) and _is(v, parts[1]) for k, v in value.items())
    if declared in (int, float):
        return isinstance(value, int if declared is int else Real) and not isinstance(value, bool)
    return isinstance(value, declared)


def _check_size(name: str, value: Any, depth: int = 0) -> None:
    if not isinstance(value, (list, tuple, set, dict)):
        return
    if len(value) > MOST_ENTRIES or depth > DEEPEST:
        raise ValueError(f"{name} must have at most {MOST_ENTRIES:,} entries and {DEEPEST} lists within lists.")
    for entry in value.values() if isinstance(value, dict) else value:
        _check_size(name, entry, depth + 1)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
