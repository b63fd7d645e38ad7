"""Text files line by line, whoever wrote them: what cannot be read is named by file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST = 2**24  # bytes of one line; a longer one is no example, but a file that is not made of lines
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_texts(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, and their numbers from 1 on. Only one is held at a time.

    A line ends at a newline alone: ``str.splitlines`` also breaks at U+2028 and others, which JSON allows in a string.

    Raises:
        ValueError: no line has text, one is not UTF-8, or one is longer than `LONGEST`.
    """
    found = False
    with Path(path).open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), start=1):
            text = _decoded(line, f"{path}, line {number}")
            if text.strip():
                found = True
                yield number, text
    if not found:
        raise ValueError(f"{path} has no line to read; put one text or one JSON object on each.")


def read_text(path: str | os.PathLike[str]) -> str:
    """A whole text; ValueError, which names the file, where it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ValueError(f"{path}: expected UTF-8 text ({fault}). Save the file as UTF-8.") from None


def read_objects(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object on each line, as ``json.loads`` reads it.

    Raises:
        ValueError: what `read_texts` refuses, and a line that is no object.
    """
    for number, line in read_texts(path):
        yield number, parsed(line, f"{path}, line {number}")


def parsed(text: str, place: str) -> dict[str, Any]:
    """One JSON object; ValueError, which names ``place``, for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise ValueError(f"{place}: expected JSON, got {shown(text)} ({fault}).") from None
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected a JSON object, got {shown(value)}.")
    return value


def shown(value: Any) -> str:
    """A value from a file, short enough for a message."""
    text = repr(value[:100] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _decoded(line: bytes, place: str) -> str:
    if len(line) > LONGEST:
        raise ValueError(f"{place} is longer than {LONGEST:,} bytes; expected one example on each line.")
    if line.startswith(UTF_16):
        raise ValueError(f"{place}: expected UTF-8 text, got UTF-16: {shown(line)}. Save the file as UTF-8.")
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")  # -sig: some editors put a byte order mark first
    except UnicodeDecodeError:
        raise ValueError(f"{place}: expected UTF-8 text, got {shown(line)}. Save the file as UTF-8.") from None
