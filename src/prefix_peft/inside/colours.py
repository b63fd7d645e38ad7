"""The colours of heat maps: from nearly white over teal to a dark blue, each darker than the one before."""

from __future__ import annotations

ANCHORS = ["#f3f9f4", "#c4e8d1", "#82cfb9", "#42b0ad", "#2f8ba0", "#316592", "#36417a", "#2a1f4d"]


def colour(share: float) -> str:
    """For a number between 0 and 1, as '#rrggbb'."""
    place = min(max(share, 0.0), 1.0) * (len(ANCHORS) - 1)
    first = min(int(place), len(ANCHORS) - 2)
    pair = zip(_parts(ANCHORS[first]), _parts(ANCHORS[first + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - first)):02x}" for a, b in pair)


def _parts(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
