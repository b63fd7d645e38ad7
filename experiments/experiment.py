"""What an experiment is: its cells, and what is compared along which lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefix_peft.values import check_count

from .cell import Cell


@dataclass(frozen=True)
class Choice:
    """What the user chose: on which base and tasks, how often, and at which scale.

    Raises:
        ValueError: no pair to a step, or fewer than no beams.
    """

    base: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...] | None = None  # None: those of the experiment
    subsets: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 400
    max_records: int | None = 200
    separator: str | None = " =>"
    batch_size: int = 10
    num_beams: int = 5
    examples: tuple[int, ...] = (50, 100, 200, 500)  # where few are compared
    rates: tuple[float, ...] = (0.25, 1.0, 4.0, 16.0)  # learning rates that are tried, times a method's own
    num_virtual_tokens: int = 10  # of prefixes; the other methods of one size train as many numbers

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        check_count("num_virtual_tokens", self.num_virtual_tokens)
        check_count("num_beams", self.num_beams, least=0)

    def cell(self, task: str, method: str, seed: int, **fields: object) -> Cell:
        """A cell of these choices."""
        given = {
            "base": self.base, "task": task, "method": method, "seed": seed, "steps": self.steps,
            "max_records": self.max_records, "separator": self.separator, "splits": TEST_SPLITS.get(task, ("test",)),
            "batch_size": self.batch_size, "num_beams": self.num_beams,
        } | fields  # fmt: skip
        return Cell(**given)


@dataclass(frozen=True)
class Experiment:
    """One question. Cells that differ in nothing but seed and subset are one figure, with its spread."""

    name: str
    question: str
    paper: str  # what Li & Liang found, with the place
    cells: Callable[[Choice], list[Cell]]
    line: Callable[[Cell], str]  # a row of the table, a line of the plot
    x: str | None = None  # the field or knob along the horizontal axis; None for a table only
    tasks: Sequence[str] = ("webnlg", "e2e", "dart")  # by default
    texts: bool = False  # the question is how they read
    one_size: bool = True  # all that are compared are of `Choice.num_virtual_tokens`
    one_course: bool = True  # and are trained for `Choice.steps`


# Seen and unseen categories are two questions.
TEST_SPLITS = {"webnlg": ("test_seen", "test_unseen")}
