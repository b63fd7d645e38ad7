"""What is known so far: one line of JSON for each cell that came to its end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .cell import Cell, Result

FILE = "cells.jsonl"


class Store:
    """The results in a directory. A cell that is there is not run again."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / FILE
        lines = self.file.read_text("utf-8").splitlines() if self.file.is_file() else []
        results = map(self._with_samples, map(Result.from_json, filter(_is_whole, lines)))
        self.results = {(result.experiment, result.cell.identity): result for result in results}

    def add(self, result: Result) -> None:
        """Keep it, on the disk as well before this returns."""
        samples = self._samples(result)
        samples.parent.mkdir(parents=True, exist_ok=True)
        samples.write_text(json.dumps(result.samples, ensure_ascii=False, indent=1), "utf-8")
        line = replace(result, samples={}).as_json()
        self.results[result.experiment, result.cell.identity] = self._with_samples(Result.from_json(line))
        with self.file.open("a+b") as file:
            if file.tell() and not _ends_a_line(file.name):
                file.write(b"\n")  # the command was killed while it wrote; that line is not whole and stays unread
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def missing(self, experiment: str, cells: Iterable[Cell]) -> list[Cell]:
        """Those that are still to be run, each once. What another experiment has found of a cell holds here as well."""
        wanted = {cell.identity: cell for cell in cells}
        found = {identity: result for (_, identity), result in self.results.items() if identity in wanted}
        for identity, result in found.items():
            if (experiment, identity) not in self.results:
                self.add(replace(result, experiment=experiment))
        return [cell for identity, cell in wanted.items() if identity not in found]

    def of(self, experiment: str) -> list[Result]:
        """All results of an experiment."""
        return [result for (name, _), result in self.results.items() if name == experiment]

    def _samples(self, result: Result) -> Path:
        """A file of their own, for sources are the data set's, and not everybody's to publish."""
        return self.file.parent / "samples" / f"{result.cell.identity}.json"

    def _with_samples(self, result: Result) -> Result:
        file = self._samples(result)
        return replace(result, samples=json.loads(file.read_text("utf-8"))) if file.is_file() else result


def _is_whole(line: str) -> bool:
    return line.startswith("{") and line.endswith("}")


def _ends_a_line(path: str) -> bool:
    with Path(path).open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
