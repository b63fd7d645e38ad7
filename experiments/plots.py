"""The pictures: lines with their spread along an axis, or bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cell import Result
from .experiment import Experiment
from .figures import Figure, figure, gathered, main_metric

OURS = "prefix"
MOST_TICKS = 8  # with their own numbers


def draw(experiment: Experiment, results: Sequence[Result], path: Path) -> Path | None:
    """A PNG with a panel for each task and split; None without results, or where matplotlib is not installed."""
    groups = gathered(experiment, results)
    panels = list(dict.fromkeys(key[:2] for key in groups))
    if not panels:
        return None
    try:
        from matplotlib.figure import Figure as Picture
    except ImportError:
        print("No plot: pip install prefix-peft[plot]")
        return None
    picture = Picture(figsize=(max(4.2 * len(panels), 5.0), 3.8), layout="constrained")
    for axes, (task, split) in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        found = {key[2:]: rows for key, rows in groups.items() if key[:2] == (task, split)}
        metric = main_metric(next(iter(found.values()))[0].scores[split])
        figures = {key: value for key, rows in found.items() if (value := figure(rows, split, metric))}
        (_lines if experiment.x else _bars)(axes, figures)
        axes.set(title=f"{task}, {split.replace('_', ' ')}")
        axes.set_xlabel(experiment.x.replace("_", " ") if experiment.x else metric)
        axes.set_ylabel(metric if experiment.x else "")
        axes.grid(alpha=0.3)
    picture.savefig(path, dpi=150)
    return path


def _lines(axes: Any, figures: dict[tuple[str, Any], Figure]) -> None:
    for number, line in enumerate(dict.fromkeys(line for line, _ in figures)):
        points = sorted((place, found) for (of, place), found in figures.items() if of == line)
        places, means = [place for place, _ in points], [found.mean for _, found in points]
        low = [found.mean - found.deviation for _, found in points]
        high = [found.mean + found.deviation for _, found in points]
        axes.plot(places, means, "o-", label=line, color=f"C{number}", markersize=4)
        axes.fill_between(places, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    ticks = sorted({place for _, place in figures})
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.legend(frameon=False)


def _bars(axes: Any, figures: dict[tuple[str, Any], Figure]) -> None:
    lines = [line for line, _ in figures]
    axes.barh(
        lines,
        [found.mean for found in figures.values()],
        xerr=[found.deviation for found in figures.values()],
        color=["C1" if line == OURS else "C0" for line in lines],
        alpha=0.8,
    )
    axes.invert_yaxis()
