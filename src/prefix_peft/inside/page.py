"""Tables and heat maps as one page of HTML that loads nothing, all texts escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .colours import ANCHORS, colour
from .heatmap import HeatMap
from .tables import Table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2433; background: #fff; max-width: 76rem; margin: 2rem auto;
       padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
p { color: #566; margin: .2rem 0; max-width: 60rem; } div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.data td, .data th { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #e4e8ee;
                     vertical-align: top; }
.data th { font-weight: 600; }
.heat td { width: 1.5rem; min-width: 1.5rem; height: 1.5rem; padding: 0; border: 1px solid #fff; }
.heat th { font-weight: 400; font-size: .8rem; color: #566; padding: 0 .4rem; text-align: right; white-space: nowrap; }
.heat thead th { padding: .2rem 0; text-align: center; vertical-align: bottom; }
.heat .word { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; display: inline-block; }
.key { display: inline-block; width: 12rem; height: .7rem; vertical-align: middle; margin: 0 .5rem; }
"""


def page(title: str, notes: Sequence[str], parts: Sequence[Table | HeatMap]) -> str:
    """The whole page."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    body += [_table(part) if isinstance(part, Table) else _heat(part) for part in parts]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2>{note}\n<div><table class="data"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _heat(heat: HeatMap) -> str:
    head = "".join(f"<th>{_name(name, heat.words)}</th>" for name in heat.columns)
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th>" + "".join(_cell(heat, i, j) for j in range(len(heat.columns))) + "</tr>"
        for i, name in enumerate(heat.rows)
    )
    corner = f"<th>{escape(heat.row_axis)} \\ {escape(heat.column_axis)}</th>"
    return (
        f"<h2>{escape(heat.title)}</h2>\n{_key(heat)}\n"
        f'<div><table class="heat"><thead><tr>{corner}{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _name(name: str, upright: bool) -> str:
    return f'<span class="word">{escape(name)}</span>' if upright else escape(name)


def _cell(heat: HeatMap, row: int, column: int) -> str:
    number = heat.numbers[row][column]
    if math.isnan(number):
        return "<td></td>"
    what = f"{heat.row_axis} {heat.rows[row]}, {heat.column_axis} {heat.columns[column]}: {number:.3g}"
    return f'<td style="background:{colour(number / heat.top)}" title="{escape(what)}"></td>'


def _key(heat: HeatMap) -> str:
    return (
        f'<p>{escape(heat.unit)}: 0<span class="key" style="background:linear-gradient(to right,{",".join(ANCHORS)})">'
        f"</span>{heat.top:.3g}</p>"
    )
