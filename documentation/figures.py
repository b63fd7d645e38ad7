"""Draw the pictures of the documentation: python documentation/figures.py docs/figures

They are SVG whose colours are variables, so that they follow the page's between light and dark, and outside of a page
the reader's system.
"""

# ruff: noqa: RUF001

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

CELL, GAP, ROW = 52, 6, 84
STYLE = """<style>
.fig {--ink: #24292f; --quiet: #6b7280; --cell: #e8eaee; --prefix: #d9480f; --line: #b6bcc6; --paper: #ffffff;
  font-family: system-ui, sans-serif; width: 100%; height: auto}
@media (prefers-color-scheme: dark) {.fig {--ink: #e6e6e6; --quiet: #9aa3af; --cell: #3a3f4b; --prefix: #ff922b;
  --line: #5d6573; --paper: #1e2129}}
.fig text {fill: var(--ink); font-size: 14px; text-anchor: middle}
.fig .quiet {fill: var(--quiet)} .fig .left {text-anchor: start} .fig .small {font-size: 12.5px}
.fig .own {fill: var(--prefix)} .fig .on {fill: var(--paper); font-weight: 600} .fig .strong {font-weight: 600}
.fig .cell {fill: var(--cell)} .fig .prefix {fill: var(--prefix)}
.fig .none {fill: none; stroke: var(--line); stroke-dasharray: 3 3}
.fig .line {fill: none; stroke: var(--line); stroke-width: 1.3}
.fig .thick {fill: none; stroke: var(--prefix); stroke-width: 1.8}
</style>"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def subscripts(words: str) -> str:
    """``a_b`` with a small b below."""
    return re.sub(r"_(\w)", r'<tspan dy="4" font-size="10">\1</tspan><tspan dy="-4">&#8203;</tspan>', words)


def cell(x: float, y: float, words: str, kind: str, width: float = CELL, height: float = 34) -> str:
    box = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="{kind}"/>'
    return box + text(x + width / 2, y + height / 2 + 5, words, "on" if kind == "prefix" else "small")


def arc(start: float, end: float, y: float, kind: str) -> str:
    """From a query to a key of the same row, higher where they are further apart."""
    top = y - 12 - abs(start - end) / 24
    return f'<path d="M{start:g} {y:g} C{start:g} {top:g} {end:g} {top:g} {end:g} {y:g}" class="{kind}"/>'


def way(x: float, y: float, to_x: float, to_y: float) -> str:
    """What goes from one box to another, with a dot where it arrives."""
    middle = (x + to_x) / 2
    line = f'<path d="M{x:g} {y:g} C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}" class="line"/>'
    return line + f'<circle cx="{to_x:g}" cy="{to_y:g}" r="3.5" class="cell line"/>'


def bracket(x: float, to_x: float, y: float, words: str, kind: str = "small") -> str:
    line = f'<path d="M{x:g} {y:g} v6 H{to_x:g} v-6" class="{"thick" if "own" in kind else "line"}"/>'
    return line + text((x + to_x) / 2, y + 24, words, kind)


def svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="fig" viewBox="0 0 {width:g} {height:g}" role="img">'
    return "\n".join([head, f"<title>{title}</title>", STYLE, *parts, "</svg>\n"])


def attention() -> str:
    """[PREFIX; x; y]: the last word attends to the prefix of its layer, and to the words before it."""
    words, width = ["name", ":", "Ada", "=&gt;", "Ada", "Lovelace", "was", "born"], 70
    xs = [96 + i * (CELL + GAP) for i in range(3)] + [288 + i * (width + GAP) for i in range(len(words))]
    widths = [CELL] * 3 + [width] * len(words)
    middles = [x + wide / 2 for x, wide in zip(xs, widths, strict=True)]
    parts = []
    for row in range(3):
        y = 46 + row * ROW
        parts.append(text(16, y + 22, f"layer {3 - row}", "left quiet small"))
        for i, middle in reversed(list(enumerate(middles[:-1]))):
            parts.append(arc(middles[-1], middle, y, "thick" if i < 3 else "line"))
        kinds = ["prefix"] * 3 + ["cell"] * len(words)
        parts += [cell(x, y, "K V", kind, wide) for x, kind, wide in zip(xs, kinds, widths, strict=True)]
    y = 46 + 3 * ROW - 12
    parts += [cell(x, y, "", "none", CELL, 28) for x in xs[:3]]
    parts += [text(middle, y + 19, word) for middle, word in zip(middles[3:], words, strict=True)]
    parts.append(bracket(xs[0], xs[2] + CELL, y + 38, "PREFIX: trained, no tokens", "own strong small"))
    parts.append(bracket(xs[3], xs[6] + width, y + 38, "x, the source: frozen"))
    parts.append(bracket(xs[7], xs[-1] + width, y + 38, "y, the target: frozen"))
    return svg(xs[-1] + width + 20, y + 76, "A prefix joins the keys and values of every attention layer", parts)


def merging() -> str:
    """One softmax over the prefix and the text, in two ways."""
    parts = [text(200, 24, "joined", "strong"), text(640, 24, "merged", "strong")]
    keys = [("P", "prefix")] * 3 + [("K", "cell")] * 6
    parts += [cell(20 + i * 40, 50, name, kind, 36) for i, (name, kind) in enumerate(keys)]
    parts.append(bracket(20, 376, 90, "one softmax over [P; K]"))
    parts.append(text(200, 156, subscripts("out = Σ weights × [P_V; V]")))
    parts.append(text(200, 184, "keys copied to every row of the batch", "quiet small"))
    parts += [cell(450 + i * 40, 50, "P", "prefix", 36) for i in range(3)]
    parts += [cell(610 + i * 40, 50, "K", "cell", 36) for i in range(6)]
    parts.append(bracket(450, 566, 90, subscripts("o_p, ℓ_p: for all rows"), "own small"))
    parts.append(bracket(610, 846, 90, subscripts("o_s, ℓ_s: as without a prefix")))
    parts.append(text(640, 156, subscripts("out = λ o_p + (1 − λ) o_s,  λ = σ(ℓ_p − ℓ_s)")))
    parts.append(text(640, 184, "ℓ: logarithm of the softmax's denominator", "quiet small"))
    return svg(866, 200, "Attention over prefix and text, joined and merged", parts)


def positions() -> str:
    """Where real tokens must stand to become a prefix of a text that begins at 0."""
    xs = [30 + i * 58 for i in range(11)]
    parts = [text(16, 26, "rotary: the prefix is read at −P … −1, the text stays", "left strong")]
    for i, x in enumerate(xs):
        parts.append(cell(x, 42, str(i - 4).replace("-", "−"), "prefix" if i < 4 else "cell"))
    parts.append(text(16, 124, "learned: the prefix is read at 0 … P − 1, the text moves to P", "left strong"))
    for i, x in enumerate(xs):
        parts.append(cell(x, 140, str(i), "prefix" if i < 4 else "cell"))
    return svg(690, 190, "Positions of a prefix that was read from real tokens", parts)


def encoder_decoder() -> str:
    """z = [PREFIX; x; PREFIX'; y], and the third prefix of cross-attention."""

    def stack(x: float, y: float, name: str, own: str, texts: list[str]) -> list[str]:
        cells = [cell(x + i * 44, y, "K V", "prefix", 40) for i in range(2)]
        cells += [cell(x + 92 + i * 58, y, word, "cell", 54) for i, word in enumerate(texts)]
        return [*cells, text(x, y - 10, name, "left small strong"), text(x + 42, y + 52, own, "own small")]

    source, target = ["name", ":", "Ada"], ["Ada", "was", "born"]
    parts = stack(30, 130, "encoder: self-attention", "PREFIX", source)
    parts += stack(420, 190, "decoder: self-attention", "PREFIX′", target)
    parts += stack(420, 40, "decoder: cross-attention", "a third", source)
    parts += [way(302, 147, 410, 57), text(320, 92, "keys, values", "quiet small")]
    parts += [way(660, 184, 660, 84), text(692, 140, "queries", "quiet small")]
    parts += [text(208, 182, "x", "strong"), text(598, 242, "y", "strong"), text(598, 92, "x", "strong")]
    return svg(730, 258, "Three kinds of attention, three kinds of prefix", parts)


FIGURES: dict[str, Callable[[], str]] = {
    "attention": attention, "merging": merging, "positions": positions, "encoder-decoder": encoder_decoder
}  # fmt: skip

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        Path(sys.argv[1], f"{name}.svg").write_text(draw(), encoding="utf-8")
