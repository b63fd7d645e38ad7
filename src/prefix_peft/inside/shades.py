"""A heat map in a terminal, by shaded blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .heatmap import HeatMap

SHADES = " ░▒▓█"
WIDEST = 24  # letters of a name


def shaded(heat: HeatMap) -> str:
    """Rows and columns as the map has them, but words beside rows, where they can be read; means at the end."""
    if heat.words:
        rows, columns, axes = heat.columns, heat.rows, (heat.column_axis, heat.row_axis)
        numbers: Sequence[Sequence[float]] = list(zip(*heat.numbers, strict=True))
    else:
        rows, columns, axes, numbers = heat.rows, heat.columns, (heat.row_axis, heat.column_axis), heat.numbers
    names = [_cut(name) for name in (axes[0], *rows)]
    width, cell = max(map(len, names)), 1 + max(2, *map(len, columns))
    lines = [
        f"{heat.title}; {heat.unit}",
        f"{'':{width}} {axes[1]}",
        f"{names[0]:{width}} {''.join(f'{name:<{cell}}' for name in columns)} mean",
    ]
    for name, row in zip(names[1:], numbers, strict=True):
        blocks = "".join(_block(number, heat.top, cell) for number in row)
        there = [number for number in row if not math.isnan(number)]
        lines.append(f"{name:{width}} {blocks} {sum(there) / len(there):4.1f}")
    return "\n".join([*lines, _legend(heat.top)])


def _block(number: float, top: float, width: int) -> str:
    if math.isnan(number):
        return " " * width
    return SHADES[_step(number, top)] * (width - 1) + " "


def _step(number: float, top: float) -> int:
    return min(int(number / top * len(SHADES)), len(SHADES) - 1)


def _legend(top: float) -> str:
    parts = len(SHADES)
    return "  ".join(
        f"{shade}{shade} {i * top / parts:.3g} to {(i + 1) * top / parts:.3g}" for i, shade in enumerate(SHADES)
    )


def _cut(name: str) -> str:
    return name if len(name) <= WIDEST else name[: WIDEST - 1] + "…"
