"""Mutated texts: JSON objects, and lines of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .dice import Dice

NUMBERS = [
    0, 1, -1, 2, 3, 2**31, 2**63, 2**64, 10**12, 10**40, -(10**12), 0.5, 1.0, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), -float("inf"),
]  # fmt: skip
WORDS = [
    "", " ", "a", "PREFIX_KV", "decoder", "../../etc/passwd", "/dev/zero", "\x00", "é\u2028", "\ud800", "(.+)+$",
    "(" * 50, "a" * 10_000, "os.system", "__base__", "default", "float32", "true", "null", "{}",
]  # fmt: skip
PIECES = [b"\x00", b"\xff\xfe", b"\n", b'"', b"}", b"[" * 50, b"NaN"]
ENCODINGS = ["utf-8"] * 14 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037"]
RECORDS = [{"source": "name : Ada", "target": "Ada is a name .", "id": 7}, {"source": "b", "references": ["c", "d"]}]
LIKELY_IN_RECORDS = {"source": ["x"], "references": [["y"], [], [5], "y"], "target": ["z", 5, " "], "id": [1, "a", []]}


def word(dice: Dice) -> str:
    """A name, a path, an expression or nonsense."""
    return dice.text(12) if dice.once_in(3) else dice.pick(WORDS)


def value(dice: Dice, depth: int = 0) -> Any:
    """Any JSON value."""
    kind = dice.below(6 if depth < 3 else 4)
    if kind < 2:
        return dice.pick(NUMBERS) if kind else dice.pick([None, True, False])
    if kind == 2:
        return dice.between(-(2**70), 2**70)
    if kind == 3:
        return word(dice)
    parts = [value(dice, depth + 1) for _ in range(dice.below(4))]
    return parts if kind == 4 else {word(dice): part for part in parts}


def changed(dice: Dice, base: Mapping[str, Any], likely: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """``base`` with one to three changes; ``likely`` are values that a field might well have."""
    result = dict(base)
    for _ in range(dice.between(1, 3)):
        key = word(dice) if dice.once_in(10) or not result else dice.pick(sorted(result))
        kind = dice.below(6)
        if kind < 3:
            known = dice.pick(sorted(likely))
            result[known] = dice.pick(likely[known])
        elif kind == 3:
            result.pop(key, None)
        elif kind == 4 and result:
            result[key] = result[dice.pick(sorted(result))]
        else:
            result[key] = value(dice)
    return result


def as_file(dice: Dice, content: Any) -> bytes:
    """A value as JSON, most often as it is, else in a text or in bytes that say something else or nothing."""
    text = json.dumps(content, ensure_ascii=bool(dice.below(2)))
    kind = dice.below(18)
    if kind == 17 and text.startswith("{") and len(text) > 2:
        key = json.dumps(word(dice))
        text = f"{{{key}: 1, {text[1:-1]}, {key}: {json.dumps(value(dice))}}}"
    if kind == 16:
        depth = dice.pick([10, 400, 900, 5_000, 100_000])
        text = text[:-1] + ', "deep": ' + "[" * depth + "]" * dice.pick([depth, 0]) + "}"
    data = text.encode(dice.pick(ENCODINGS), errors="replace")
    return mutated(dice, data) if kind in (13, 14, 15) else data


def mutated(dice: Dice, data: bytes) -> bytes:
    """A few bytes cut out, put in or changed, or the end missing."""
    for _ in range(dice.between(1, 3)):
        start = dice.between(0, len(data))
        stop = dice.between(start, min(start + 64, len(data)))
        put = dice.pick(PIECES) if dice.once_in(2) else dice.blob(8)
        data = data[:start] if dice.once_in(6) else data[:start] + put + data[stop:]
    return data


def lines(dice: Dice) -> bytes:
    """A data file: records, of which some are none."""
    rows = []
    for _ in range(dice.below(5)):
        record = dice.pick(RECORDS)
        if dice.once_in(3):
            record = changed(dice, record, LIKELY_IN_RECORDS)
        rows.append(as_file(dice, record) if dice.once_in(3) else json.dumps(record).encode())
    return b"".join(row + dice.pick([b"\n", b"\n", b"\r\n", b"\n\n", b" \n", b""]) for row in rows)
