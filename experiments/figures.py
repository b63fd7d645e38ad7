"""From the results of single cells to figures: means over seeds and draws, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .cell import Result
from .experiment import Experiment
from .methods import METHODS

FEWER_IS_BETTER = ("ter", "loss")
FRACTIONS = ("meteor", "ter", "rouge_l")  # shown with three digits


@dataclass(frozen=True)
class Figure:
    """A mean, and the standard deviation over as many runs; 0 for one."""

    mean: float
    deviation: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """The figure of some runs."""
        found = list(values)
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0, len(found))

    def shown(self, metric: str) -> str:
        """'21.3 ± 0.4'."""
        digits = 3 if metric in FRACTIONS else 2
        spread = f" ± {self.deviation:.{digits}f}" if self.runs > 1 else ""
        return f"{self.mean:.{digits}f}{spread}"


Key = tuple[str, str, str, Any]  # task, split, line, place along the axis


def gathered(experiment: Experiment, results: Iterable[Result]) -> dict[Key, list[Result]]:
    """The results that are one figure; the methods stand in the order of `METHODS`, whichever was run first."""
    groups: dict[Key, list[Result]] = {}
    for result in sorted(results, key=_order):
        place = result.cell.value(experiment.x) if experiment.x else None
        for split in result.scores:
            groups.setdefault((result.cell.task, split, experiment.line(result.cell), place), []).append(result)
    return groups


def _order(result: Result) -> tuple[int, float, bool]:
    cell = result.cell
    return list(METHODS).index(cell.method), cell.share or 0.0, bool(cell.value("init_examples"))


def figure(results: Iterable[Result], split: str, metric: str) -> Figure | None:
    """Of one metric; None where it was not available."""
    found = [result.scores[split][metric] for result in results if metric in result.scores[split]]
    return Figure.of(found) if found else None


def metrics_of(scores: Mapping[str, float]) -> list[str]:
    """Names of scores, the loss last."""
    return sorted(scores, key=lambda name: name == "loss")


def main_metric(scores: Mapping[str, float]) -> str:
    """By which a plot compares: the first of the protocol."""
    return metrics_of(scores)[0]
