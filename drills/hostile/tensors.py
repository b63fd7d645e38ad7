"""Mutated safetensors files, and a reader of them that shares no code with the one that is tried."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .dice import Dice
from .texts import mutated, value, word

Arrays = dict[str, np.ndarray]  # by name
Header = dict[str, Any]

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?", "I8": "i1"}
STRANGE = ["BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "U16", "I16", "F8_E8M0", "", "f32", "F128", "OBJECT"]
SIZES = [2**31, 2**40, 2**63, 2**64, 10**40, -(2**40)]
LENGTHS = [0, 1, 7, 100_000_000, 100_000_001, 2**40, 2**63, 2**64 - 1]
NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, 1e-45]


def read(data: bytes) -> Arrays:
    """Every tensor of a file, each as its header declares it."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    return {name: _array(entry, body) for name, entry in header.items() if name != "__metadata__"}


def write(header: dict[str, Any], body: bytes, length: int | None = None) -> bytes:
    """A file, whose first eight bytes may lie."""
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a whole file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def changed(dice: Dice, whole: bytes) -> bytes:
    """A file with one or two changes of its header, its numbers or its bytes."""
    header, body = parts(whole)
    length = None
    for _ in range(dice.between(1, 2)):
        kind = dice.pick(["number", "type", "entry", "entry", "body", "names", "metadata", "length"])
        if kind == "length":
            length = dice.pick(LENGTHS) if dice.once_in(2) else dice.below(2**64)
        elif kind == "type":
            header, body = _as_type(header, body, dice.pick(sorted(TYPES)))
        elif kind == "number":
            body = _other_number(dice, body)
        elif kind == "body":
            body = mutated(dice, body)
        else:
            header = _other_header(dice, header, kind)
    data = write(header, body, length)
    return mutated(dice, data) if dice.once_in(7) else data


def _other_header(dice: Dice, header: Header, kind: str) -> Header:
    header = dict(header)
    if kind == "metadata":
        pairs = {dice.text(3): dice.text(3)}
        return header | {"__metadata__": value(dice) if dice.once_in(2) else pairs}
    name = dice.pick(sorted(header))
    if kind == "names":
        entry = header.pop(name) if dice.once_in(2) else header[name]
        other = dice.pick(sorted(header)) if header and dice.once_in(2) else word(dice)
        return header | {other: entry}
    entry = header[name]
    if not isinstance(entry, dict):
        return header
    return header | {name: _other_entry(dice, entry)}


def _other_entry(dice: Dice, entry: Header) -> Header:
    field = dice.pick(["dtype", "shape", "order", "data_offsets", "else"])
    if field == "dtype":
        return entry | {"dtype": dice.pick([*TYPES, *STRANGE])}
    if field == "order" and isinstance(entry.get("shape"), list):
        return entry | {"shape": entry["shape"][::-1]}
    if field in ("shape", "data_offsets"):
        sizes = [dice.pick(SIZES) if dice.once_in(4) else dice.between(-2, 600) for _ in range(dice.below(5))]
        return entry | {field: sizes}
    return entry | {dice.pick(["dtype", "shape", "data_offsets", word(dice)]): value(dice)}


def _other_number(dice: Dice, body: bytes) -> bytes:
    place = 4 * dice.below(max(len(body) // 4, 1))
    number = dice.pick(NUMBERS) if dice.once_in(2) else dice.between(-(10**6), 10**6) / 7
    return body[:place] + np.float32(number).tobytes() + body[place + 4 :]


def _as_type(header: dict[str, Any], body: bytes, kind: str) -> tuple[dict[str, Any], bytes]:
    """All tensors rightly written in another type; what is broken already stays so."""
    try:
        with np.errstate(all="ignore"):
            arrays = {name: array.astype(TYPES[kind]) for name, array in read(write(header, body)).items()}
    except Exception:
        return header, body
    written, chunks, start = {}, [], 0
    for name, array in arrays.items():
        chunks.append(array.tobytes())
        end = start + len(chunks[-1])
        written[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    return written, b"".join(chunks)


def _array(entry: dict[str, Any], body: bytes) -> np.ndarray:
    start, end = entry["data_offsets"]
    if entry["dtype"] == "BF16":
        numbers = (np.frombuffer(body[start:end], "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(body[start:end], TYPES[entry["dtype"]])
    return numbers.reshape(entry["shape"])
