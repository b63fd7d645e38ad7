"""A table of numbers with names on both sides, to be drawn by shades, as a picture or as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .masses import Masses, SiteMass
from .release import Release


@dataclass(frozen=True)
class HeatMap:
    """``numbers[row][column]``, NaN where there is nothing; ``top`` is what the darkest shade stands for."""

    title: str
    row_axis: str
    rows: list[str]
    column_axis: str
    columns: list[str]
    numbers: list[list[float]]
    unit: str
    top: float
    words: bool = False  # whether the columns are words, to be written upright


def maps_of_masses(masses: Masses) -> list[HeatMap]:
    """Of each role: layers x heads, layers x virtual tokens, and layers x tokens."""
    maps = []
    for role in masses.roles:
        sites, texts = masses.of_role(role), masses.texts.get(role, [])
        names = short_names([mass.site.name for mass in sites])
        maps += [_by_head(role, names, sites), _by_virtual(role, names, sites), _by_token(role, names, sites, texts)]
    return maps


def maps_of_norms(release: Release) -> list[HeatMap]:
    """Sites x virtual tokens: norms of keys and of values."""
    names = short_names([site.name for site in release.sites])
    maps = []
    for side, title in enumerate(("Norm of the keys", "Norm of the values")):
        rows = [site.norms()[side] for site in release.sites]
        top = max(float(row.max()) for row in rows)
        count = max(len(row) for row in rows)
        numbers = _padded(rows, count)
        maps.append(
            HeatMap(title, "site", names, "virtual token", _counted(count), numbers, "Euclidean norm", top or 1.0)
        )
    return maps


def _by_head(role: str, names: list[str], sites: Sequence[SiteMass]) -> HeatMap:
    numbers = _padded([100 * mass.heads for mass in sites])
    title = f"{role.capitalize()}: by head, mean over tokens"
    return HeatMap(title, "layer", names, "head", _counted(len(numbers[0])), numbers, SHARE, 100.0)


def _by_virtual(role: str, names: list[str], sites: Sequence[SiteMass]) -> HeatMap:
    numbers = _padded([100 * mass.virtual for mass in sites])
    top = max(max(n for n in row if not math.isnan(n)) for row in numbers)
    title = f"{role.capitalize()}: by virtual token, mean over the rest"
    return HeatMap(title, "layer", names, "virtual token", _counted(len(numbers[0])), numbers, EACH_SHARE, top or 1.0)


def _by_token(role: str, names: list[str], sites: Sequence[SiteMass], texts: list[str]) -> HeatMap:
    numbers = _padded([100 * mass.tokens for mass in sites])
    columns = texts if len(texts) == len(numbers[0]) else _counted(len(numbers[0]))
    title = f"{role.capitalize()}: by token of the text, mean over heads"
    return HeatMap(title, "layer", names, "token that attends", columns, numbers, SHARE, 100.0, words=True)


SHARE = "attention to the prefix (%)"
EACH_SHARE = "attention to one virtual token (%)"


def short_names(names: Sequence[str]) -> list[str]:
    """Only what tells names apart: of 'transformer.h.0.attn' and 'transformer.h.1.attn' '0' and '1'."""
    parts = [name.split(".") for name in names]
    if len({len(own) for own in parts}) == 1:
        telling = [i for i in range(len(parts[0])) if len({own[i] for own in parts}) > 1]
        return [".".join(own[i] for i in telling) for own in parts] if telling else list(names)
    numbers = [".".join(part for part in own if part.isdigit()) for own in parts]
    return numbers if len(set(numbers)) == len(names) and all(numbers) else list(names)


def _counted(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def _padded(rows: Sequence[Tensor], count: int | None = None) -> list[list[float]]:
    """Rows of one length, NaN where a site has fewer."""
    count = max(len(row) for row in rows) if count is None else count
    return [torch.cat([row.float(), row.new_full((count - len(row),), math.nan)]).tolist() for row in rows]
