"""The pictures: lines with their spread along an axis, bars, or dots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cell import Result
from .experiment import Experiment
from .figures import FEWER_IS_BETTER, Figure, figure, gathered, main_metric
from .grids import OURS

MOST_TICKS = 8  # with their own numbers
MOST_INSIDE = 4  # lines whose legend has room between them


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
    lines = list(dict.fromkeys(line for *_, line, _ in groups))
    for axes, (task, split) in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        found = {key[2:]: rows for key, rows in groups.items() if key[:2] == (task, split)}
        metric = main_metric(next(iter(found.values()))[0].scores[split])
        figures = {key: value for key, rows in found.items() if (value := figure(rows, split, metric))}
        if experiment.x:
            _lines(axes, figures, lines)
        else:
            (_dots if metric in FEWER_IS_BETTER else _bars)(axes, figures)
        axes.set(title=f"{task}, {split.replace('_', ' ')}")
        axes.set_xlabel(experiment.x.replace("_", " ") if experiment.x else metric)
        axes.set_ylabel(metric if experiment.x else "")
        axes.grid(alpha=0.3)
    if experiment.x and len(lines) > MOST_INSIDE:
        drawn = {line.get_label(): line for axes in picture.axes for line in axes.get_lines()}
        picture.legend([drawn[line] for line in lines], lines, loc="outside right upper", frameon=False)
    picture.savefig(path, dpi=150)
    return path


def _lines(axes: Any, figures: dict[tuple[str, Any], Figure], lines: Sequence[str]) -> None:
    """Each line with the colour and the marker that it has in all panels."""
    for line in dict.fromkeys(line for line, _ in figures):
        number = lines.index(line)
        points = sorted((place, found) for (of, place), found in figures.items() if of == line)
        places, means = [place for place, _ in points], [found.mean for _, found in points]
        low = [found.mean - found.deviation for _, found in points]
        high = [found.mean + found.deviation for _, found in points]
        colour, marker = f"C{number % 10}", "os^v"[number // 10 % 4]
        axes.plot(places, means, marker + "-", label=line, color=colour, markersize=4)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    ticks = sorted({place for _, place in figures})
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    if len(lines) <= MOST_INSIDE:
        axes.legend(frameon=False)


def _dots(axes: Any, figures: dict[tuple[str, Any], Figure]) -> None:
    """A loss has no meaningful zero, so its axis begins where the figures do."""
    for (line, _), found in figures.items():
        axes.errorbar(found.mean, line, xerr=found.deviation, fmt="o", color="C1" if line in OURS else "C0")
    axes.invert_yaxis()


def _bars(axes: Any, figures: dict[tuple[str, Any], Figure]) -> None:
    lines = [line for line, _ in figures]
    axes.barh(
        lines,
        [found.mean for found in figures.values()],
        xerr=[found.deviation for found in figures.values()],
        color=["C1" if line in OURS else "C0" for line in lines],
        alpha=0.8,
    )
    axes.invert_yaxis()
