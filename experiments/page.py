"""docs/results.md: every experiment that was run, with its question, what the paper found, its tables and picture."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from .catalogue import EXPERIMENTS
from .cell import Cell, Result
from .experiment import Choice, Experiment
from .findings import FINDINGS, INTRODUCTION
from .grids import label, size
from .methods import METHODS
from .plots import draw
from .report import shown
from .store import Store

Scale = tuple[tuple[str, int | None], ...]


def write_page(store: Store, path: Path) -> None:
    """The page, and its pictures in the folder of its name."""
    parts = [INTRODUCTION]
    for name, experiment in EXPERIMENTS.items():
        first: dict[str, Scale] = {}
        compared: dict[str, list[Result]] = {}
        for result in store.of(name):
            base, found = result.cell.base, scale(experiment, result.cell)
            usual = first.setdefault(base, found)
            others = [f"{'all' if value is None else value} {of}" for of, value in found if (of, value) not in usual]
            compared.setdefault(", ".join([base, *others]), []).append(result)
        for where, results in compared.items():
            parts += _section(experiment, where, results, path)
    path.write_text("\n".join(parts), "utf-8")


def scale(experiment: Experiment, cell: Cell) -> Scale:
    """What all that are compared with each other share; a second scale on the same base is a section of its own."""
    return (
        ("tokens", size(cell) if experiment.one_size else None),
        ("steps", cell.steps if experiment.one_course else None),
        ("pairs a step", cell.batch_size),
        ("records", cell.max_records),
        ("beams", cell.num_beams),
    )


def _section(experiment: Experiment, where: str, results: Sequence[Result], path: Path) -> list[str]:
    pictures = path.with_suffix("")
    pictures.mkdir(exist_ok=True)
    file = pictures / f"{experiment.name}-{where.replace(', ', '-').replace(' ', '-')}.png"
    picture = None if experiment.texts else draw(experiment, results, file)
    said = FINDINGS.get((experiment.name, where))
    return [
        f"## {experiment.name.capitalize()}, {where}\n",
        f"{experiment.question} Li & Liang: {experiment.paper}.\n",
        *([f"{said}\n"] if said else []),
        shown(experiment, results),
        *([f"\n![{experiment.question}]({pictures.name}/{picture.name})"] if picture else []),
        f"\n{_made_by(experiment, results)}\n",
    ]


def _made_by(experiment: Experiment, results: Sequence[Result]) -> str:
    hours = sum(result.seconds for result in results) / 3600
    cell, precisions = results[0].cell, {result.made_on.get("mixed_precision") for result in results}
    by_loss = cell.splits == ("validation",)  # whatever beams are asked for
    tasks, longest = dict.fromkeys(result.cell.task for result in results), max(result.cell.steps for result in results)
    usual = experiment.cells(Choice(cell.base, (cell.task,), (cell.seed,)))
    options = {
        "tasks": " ".join(tasks) if tasks.keys() != set(experiment.tasks) else None,
        "methods": _methods(experiment, results, usual),
        "examples": _examples(results, usual) if experiment.x == "examples" else None,
        "rates": _rates(results) if experiment.x == "learning_rate" else None,
        "num-virtual-tokens": size(cell) if experiment.one_size and size(cell) != Choice.num_virtual_tokens else None,
        "steps": longest if experiment.one_course or experiment.x == "steps" else None,
        "batch-size": cell.batch_size if cell.batch_size != Choice.batch_size else None,
        "beams": None if by_loss or cell.num_beams == Choice.num_beams else cell.num_beams,
        "max-records": cell.max_records or 0,
        "seeds": " ".join(map(str, sorted({result.cell.seed for result in results}))),
        "draws": None if cell.examples is None else len({result.cell.subset for result in results}),
        "mixed-precision": "no" if precisions == {"no"} else None,
    }
    given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    return (
        f"`python experiments {experiment.name} --base {cell.base}{given}`, {len(results)} cells, "
        f"{hours:.1f} hours of training; {cell.max_records or 'all'} records of each split, beams: {cell.num_beams}."
    )


def _methods(experiment: Experiment, results: Sequence[Result], usual: Sequence[Cell]) -> str | None:
    """Those that were compared, where they are not those that an experiment compares."""
    name = label if experiment.line is label else attrgetter("method")  # starts differ within a method
    found = dict.fromkeys(name(result.cell) for result in results)
    return None if found.keys() == {name(cell) for cell in usual} else " ".join(found)


def _examples(results: Sequence[Result], usual: Sequence[Cell]) -> str | None:
    """How few they were, where not as few as an experiment takes."""
    found = {result.cell.examples for result in results}
    return None if found == {cell.examples for cell in usual} else " ".join(map(str, sorted(filter(None, found))))


def _rates(results: Sequence[Result]) -> str | None:
    """The learning rates that were tried, times a method's own, where they are not those that an experiment tries."""
    times = {float(f"{r.cell.learning_rate / METHODS[r.cell.method].learning_rate:.6g}") for r in results}
    return None if times == set(Choice.rates) else " ".join(f"{rate:g}" for rate in sorted(times))
