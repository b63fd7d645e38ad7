"""One cell of a table: a base, a task, a method and all that was chosen for it, so that it can be run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

Knobs = tuple[tuple[str, Any], ...]  # of `methods.Settings`, by name


@dataclass(frozen=True)
class Cell:
    """What is trained, on what, and how it is judged. Two cells that are equal give the same scores on one machine."""

    base: str  # a directory, or the id of a Hub repository
    task: str
    method: str
    knobs: Knobs = ()
    as_prefix: int | None = None  # a size that trains as many numbers as a prefix of so many virtual tokens
    share: float | None = None  # the same, as a share of the base's numbers
    examples: int | None = None  # training pairs; None for all
    subset: int = 0  # which draw of so many
    seed: int = 0
    steps: int = 400
    epochs: float | None = None  # in place of steps, where given
    batch_size: int = 10
    learning_rate: float | None = None  # None: what `tune` found best for the method at this base
    objective: str = "token_mean"
    separator: str | None = " =>"
    splits: tuple[str, ...] = ("test",)
    max_records: int | None = 200  # judged of each split, the same for every cell; None for all
    num_beams: int = 5  # 0: only the loss is judged
    length_penalty: float = 1.0
    max_new_tokens: int = 80

    @property
    def base_name(self) -> str:
        """The base without the folder that it lies in."""
        return Path(self.base).name if Path(self.base).is_dir() else self.base

    @property
    def identity(self) -> str:
        """The same for the same cell, wherever its base lies."""
        text = json.dumps(asdict(replace(self, base=self.base_name)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def with_knobs(self, **knobs: Any) -> Cell:
        """The same cell with other knobs beside those it has."""
        return replace(self, knobs=tuple(sorted((dict(self.knobs) | knobs).items())))

    def value(self, name: str) -> Any:
        """A field or a knob; None where there is neither."""
        known = asdict(self) | dict(self.knobs)
        return known.get(name)


@dataclass(frozen=True)
class Result:
    """What became of a cell."""

    cell: Cell
    experiment: str
    parameters: int  # numbers that were trained
    of: int  # numbers of the base
    learning_rate: float
    seconds: float  # of training
    scores: Mapping[str, Mapping[str, float]]  # by split
    samples: Mapping[str, list[list[str]]] = field(default_factory=dict)  # [source, text], the first few of each split
    made_on: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """One line."""
        cell = asdict(replace(self.cell, base=self.cell.base_name))
        return json.dumps({"identity": self.cell.identity} | asdict(self) | {"cell": cell}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Result:
        """What `as_json` wrote."""
        found = json.loads(line)
        found.pop("identity")
        cell = found.pop("cell")
        cell["knobs"] = tuple((name, _hashable(value)) for name, value in cell["knobs"])
        cell["splits"] = tuple(cell["splits"])
        return cls(cell=Cell(**cell), **found)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
