"""Where cells run: here, or in a process of which there are several."""

from __future__ import annotations

import os

import torch
from transformers.utils import logging

from .cell import Cell, Result
from .harness import Place, run


def begin_worker(workers: int) -> None:
    """Share the cores among so many."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def run_cell(cell: Cell, experiment: str, place: Place, learning_rate: float) -> Result | Exception:
    """The result, or what went wrong, so that a cell that fails takes no other along."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return run(cell, experiment, place, learning_rate)
    except Exception as fault:
        return fault
