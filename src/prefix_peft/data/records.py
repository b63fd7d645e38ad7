"""What a task is made of: records, and the files that hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One input, and every text that is a right answer to it (at least one)."""

    source: str
    references: tuple[str, ...]
    id: str | int | None = field(default=None, compare=False)  # where the file gives one
    place: str = field(default="", compare=False)  # file and line


@dataclass(frozen=True)
class Task:
    """A data set by name: the files of each split, under a folder of that name, and the reader of one line."""

    name: str
    splits: dict[str, tuple[str, ...]]
    read_line: Callable[[dict[str, Any]], Record]
