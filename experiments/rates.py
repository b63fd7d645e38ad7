"""Which learning rate a cell gets that names none."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict

from .cell import Cell
from .grids import label, size
from .methods import METHODS
from .store import Store

TUNED_BY = "tune"


def best_rate(cell: Cell, store: Store) -> float:
    """The rate whose validation loss `tune` found lowest for the method and base, at the size that is nearest to the
    cell's; else the method's own."""
    if cell.learning_rate is not None:
        return cell.learning_rate
    tuned = [result for result in store.of(TUNED_BY) if _alike(result.cell, cell)]
    if not tuned:
        return METHODS[cell.method].learning_rate
    nearest = min((size(result.cell) for result in tuned), key=lambda found: abs(math.log(found / size(cell))))
    losses = defaultdict(list)
    for result in tuned:
        if size(result.cell) == nearest:
            losses[result.learning_rate].append(result.scores["validation"]["loss"])
    return min(losses, key=lambda rate: statistics.fmean(losses[rate]))


def _alike(tuned: Cell, cell: Cell) -> bool:
    return (tuned.base_name, label(tuned)) == (cell.base_name, label(cell))
