"""Which learning rate a cell gets that names none."""

from __future__ import annotations

import statistics
from collections import defaultdict

from .cell import Cell
from .methods import METHODS
from .store import Store

TUNED_BY = "tune"


def best_rate(cell: Cell, store: Store) -> float:
    """The rate whose validation loss `tune` found lowest for the method, base and size; else the method's own."""
    if cell.learning_rate is not None:
        return cell.learning_rate
    losses = defaultdict(list)
    for result in store.of(TUNED_BY):
        if _alike(result.cell, cell):
            losses[result.learning_rate].append(result.scores["validation"]["loss"])
    if not losses:
        return METHODS[cell.method].learning_rate
    return min(losses, key=lambda rate: statistics.fmean(losses[rate]))


def _alike(tuned: Cell, cell: Cell) -> bool:
    return (tuned.base_name, tuned.method, tuned.share) == (cell.base_name, cell.method, cell.share)
