"""The picture: every side's cost over the bare model's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .goals import goal, over_baseline
from .report import sides_of
from .results import Record
from .rounds import Case
from .sides import BARE

MEASURES = ("decode", "train", "switch")  # those that compare with the bare model by a ratio
TICKS = (0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


def draw(records: Mapping[str, Record], path: Path) -> Path | None:
    """A PNG with a panel for each measure; None where nothing can be drawn or matplotlib is not installed."""
    panels = {name: _ratios(records[name].cases) for name in MEASURES if name in records}
    panels = {name: cases for name, cases in panels.items() if cases}
    if not panels:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plot: pip install prefix-peft[plot]")
        return None
    lengths = [len(cases) for cases in panels.values()]
    figure = Figure(figsize=(8.0, 0.5 * sum(lengths) + 0.9 * len(panels) + 0.8), layout="constrained")
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=lengths)[:, 0]
    sides = [side for side in sides_of(case for cases in panels.values() for case in cases) if side != BARE]
    for axes, (name, cases) in zip(grid, panels.items(), strict=True):
        _panel(axes, name, cases, sides)
    _scale(grid[-1])
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
    return path


def _ratios(cases: list[Case]) -> list[Case]:
    return [case for case in cases if case.baseline == BARE and case.samples.keys() - {BARE}]


def _scale(axes: Any) -> None:
    """A logarithmic scale that all panels share, with plain numbers."""
    axes.set(xscale="log", xlabel="time over the bare model's")
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _panel(axes: Any, name: str, cases: list[Case], sides: list[str]) -> None:
    """Cases from top to bottom, sides as points, the goal as a bar across."""
    for number, side in enumerate(sides):
        figures = [(over_baseline(case, side), place) for place, case in enumerate(cases)]
        points = [(figure, place) for figure, place in figures if figure is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o", label=side, color=f"C{number}", alpha=0.8, markersize=6)
    goals = [(goal(case), place) for place, case in enumerate(cases) if goal(case) is not None]
    if goals:
        axes.plot(*zip(*goals, strict=True), "k|", markersize=16, markeredgewidth=2, label="goal: at most")
    axes.axvline(1.0, color="gray", linewidth=1)
    axes.set_yticks(range(len(cases)), [case.name for case in cases])
    axes.set(ylim=(len(cases) - 0.5, -0.5), title=name)
    axes.grid(alpha=0.3)
