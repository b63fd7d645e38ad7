"""Heat maps as one PNG."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .heatmap import HeatMap

INCH = 0.27  # of one row or column
WIDTH, NARROWEST = 11.0, 1.2  # inches
BAR = 0.14  # inches: how thick the colour bar is
LONGEST = 16  # letters of a name
MOST_NAMES = 128  # along an axis; of more, every second or third is written


def draw(title: str, maps: Sequence[HeatMap], path: Path) -> None:
    """Write ``maps`` to ``path``: two beside each other, but those of words in a row of their own.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a picture is drawn by matplotlib, which is not installed: pip install prefix-peft[plot]"
        ) from error
    lines = _lines(maps)
    heights = [_height(line) for line in lines]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    parts = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)
    for part, line in zip(parts[:, 0], lines, strict=True):
        most = max(len(heat.columns) for heat in line)
        widths = [max(len(heat.columns), 0.7 * most) for heat in line]  # each as wide as its title
        for axes, heat in zip(part.subplots(1, len(line), width_ratios=widths, squeeze=False)[0], line, strict=True):
            _draw_one(part, axes, heat)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box stands for such a letter
        figure.savefig(path, dpi=110, facecolor="white")


def _lines(maps: Sequence[HeatMap]) -> list[list[HeatMap]]:
    lines: list[list[HeatMap]] = []
    for heat in maps:
        if heat.words or not lines or len(lines[-1]) == 2 or lines[-1][0].words:
            lines.append([])
        lines[-1].append(heat)
    return lines


def _height(line: Sequence[HeatMap]) -> float:
    """Inches: the rows, and what is around them."""
    names = min(LONGEST, max(map(len, line[0].columns))) * 0.07 if line[0].words else 0.1
    return max(NARROWEST, INCH * max(len(heat.rows) for heat in line)) + 0.95 + names


def _draw_one(part: Any, axes: Any, heat: HeatMap) -> None:
    image = axes.imshow(heat.numbers, aspect="auto", cmap=_colours(), vmin=0, vmax=heat.top, interpolation="nearest")
    axes.set_title(heat.title, fontsize=10, loc="left")
    axes.set_xlabel(heat.column_axis, fontsize=9)
    axes.set_ylabel(heat.row_axis, fontsize=9)
    for axis, names in ((axes.xaxis, heat.columns), (axes.yaxis, heat.rows)):
        places = range(0, len(names), -(-len(names) // MOST_NAMES))
        size = max(5.0, min(8.0, 600 / len(places)))
        axis.set_ticks(places, [_written(names[i]) for i in places], fontsize=size)
    if heat.words:
        axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0)
    columns = len(heat.columns) if len(heat.columns) <= MOST_NAMES else 1
    axes.set_xticks([i - 0.5 for i in range(1, columns)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(heat.rows))], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6 if columns < 64 else 0.3)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    slim = max(9.0, len(heat.rows) * INCH / BAR)
    bar = part.colorbar(image, ax=axes, pad=0.01, fraction=0.05, aspect=slim)
    bar.set_label(heat.unit, fontsize=8)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _written(name: str) -> str:
    """A name as matplotlib takes it, which reads a formula between dollar signs."""
    return (name if len(name) <= LONGEST else name[: LONGEST - 1] + "…").replace("$", r"\$")


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    from .colours import ANCHORS

    colours = LinearSegmentedColormap.from_list("prefix", ANCHORS)
    colours.set_bad("white")
    return colours
