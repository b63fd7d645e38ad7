"""What a cell is trained and judged on: the task's records, drawn so that every method gets the same."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from prefix_peft.data.records import Record
from prefix_peft.data.tasks import load_task, training_pairs

from .cell import Cell

PROTOCOLS = {"scitldr": "summary", "xsum": "summary"}  # the others are named after their tasks
DEV_FOR_TRAINING = 0.8  # of the records, where a task has no others


def protocol_of(task: str) -> str:
    """By which official scripts a task is judged."""
    return PROTOCOLS.get(task, task)


def pairs_of(cell: Cell, data_dir: Path) -> list[tuple[str, str]]:
    """The (source, target) pairs to train on."""
    pairs = training_pairs(_training_records(cell.task, data_dir))
    if cell.examples is None:
        return pairs
    if cell.examples > len(pairs):
        raise ValueError(f"{cell.task} has {len(pairs):,} training pairs, {cell.examples:,} were asked for.")
    return random.Random(f"{cell.task}, {cell.examples} pairs, draw {cell.subset}").sample(pairs, cell.examples)


def records_of(cell: Cell, data_dir: Path, split: str) -> list[Record]:
    """The records of a split on which a cell is judged, in an order of their own."""
    records = (
        _validation_records(cell.task, data_dir) if split == "validation" else load_task(cell.task, data_dir, split)
    )
    order = random.Random(f"{cell.task}, {split}").sample(range(len(records)), len(records))
    return [records[i] for i in order[: cell.max_records]]


@cache
def _training_records(task: str, data_dir: Path) -> list[Record]:
    return load_task(task, data_dir, "train") if _has_training(task, data_dir) else _parts_of_dev(task, data_dir)[0]


@cache
def _validation_records(task: str, data_dir: Path) -> list[Record]:
    whole = _has_training(task, data_dir)
    return load_task(task, data_dir, "validation") if whole else _parts_of_dev(task, data_dir)[1]


def _has_training(task: str, data_dir: Path) -> bool:
    return (data_dir / task / "train.jsonl").is_file()


def _parts_of_dev(task: str, data_dir: Path) -> tuple[list[Record], list[Record]]:
    """Records for training and for choices, by source, so that none is in both."""
    records = load_task(task, data_dir, "validation")
    sources = sorted({record.source for record in records})
    random.Random(task).shuffle(sources)
    kept = set(sources[: int(DEV_FOR_TRAINING * len(sources))])
    return [r for r in records if r.source in kept], [r for r in records if r.source not in kept]
