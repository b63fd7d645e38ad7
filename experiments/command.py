"""The command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefix_peft.data.tasks import TASKS

from .catalogue import EXPERIMENTS
from .cell import Cell, Result
from .experiment import Choice, Experiment
from .grids import FROM_EXAMPLES, LARGE, LOW_DATA_STEPS
from .harness import Place
from .methods import METHODS
from .page import write_page
from .plots import draw
from .rates import best_rate
from .recipes import as_in_the_paper
from .report import shown
from .store import Store
from .worker import begin_worker, run_cell

DESCRIPTION = """Compare prefix-tuning with other methods, as Li & Liang (2021) did: one loop, one order of the data,
one decoding and one set of metrics for all. What is finished is kept; the same command goes on where it was stopped."""
EXAMPLES = """examples:
  python experiments tune table --base my-small-gpt2 --data-dir DATA        learning rates first, then the main table
  python experiments table low-data --base gpt2-medium --data-dir DATA --recipes --max-records 0   as in the paper
  python experiments table --base my-small-gpt2 --data-dir DATA --steps 50 --max-records 20        see it run
  python experiments --output docs/results --page docs/results.md           all that is there, as a page

experiments:
"""
WORKERS = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore"}  # the bar over cells is the only thing to be seen


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where a cell failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.experiments and (options.base is None or options.data_dir is None):
        parser.error("say on what: --base MODEL --data-dir DIR.")
    if not options.experiments and not options.page:
        parser.error("name an experiment, or a --page to write.")
    try:
        chosen = {name: _cells(options, EXPERIMENTS[name]) for name in options.experiments}
    except ValueError as fault:
        parser.error(str(fault))
    try:
        return _all(options, chosen)
    except KeyboardInterrupt:
        parser.exit(130, "stopped; the same command goes on with the cells that are missing.\n")


def _cells(options: argparse.Namespace, experiment: Experiment) -> list[Cell]:
    if options.recipes and experiment.x == "steps":
        raise ValueError(
            f"{experiment.name} compares numbers of steps, which --recipes fixes; leave one of the two out."
        )
    cells = experiment.cells(_choice(options, experiment))
    return list(dict.fromkeys(map(as_in_the_paper, cells))) if options.recipes else cells


def _all(options: argparse.Namespace, chosen: Mapping[str, Sequence[Cell]]) -> int:
    store, failed = Store(options.output), 0
    for name, cells in chosen.items():
        experiment = EXPERIMENTS[name]
        failed += _run(experiment, store, cells, options)
        wanted = {cell.identity for cell in cells}
        results = [result for result in store.of(name) if result.cell.identity in wanted]
        if results:
            picture = draw(experiment, results, options.output / f"{name}.png")
            print(f"\n{experiment.question}\n", shown(experiment, results), sep="\n")
            print(f"\n{store.file}" + (f" and {picture}" if picture else ""))
    if options.page:
        write_page(store, options.page)
    return int(failed > 0)


def _run(experiment: Experiment, store: Store, cells: Sequence[Cell], options: argparse.Namespace) -> int:
    """Run what is missing; the number of cells that failed."""
    missing, failed = store.missing(experiment.name, cells), 0
    place = Place(options.data_dir, options.mixed_precision)
    with tqdm(total=len(cells), initial=len(cells) - len(missing), desc=experiment.name, unit="cell") as bar:
        for cell, found in _results(experiment, store, missing, place, options.jobs):
            bar.update()
            if isinstance(found, Result):
                store.add(found)
            else:
                failed += 1
                bar.write(f"{cell.method} on {cell.task}: {type(found).__name__}: {found}")
    return failed


def _results(
    experiment: Experiment, store: Store, cells: Sequence[Cell], place: Place, jobs: int
) -> Iterator[tuple[Cell, Result | Exception]]:
    """Each cell with its result as it comes, or with what went wrong."""
    rates = {cell: best_rate(cell, store) for cell in cells}
    if jobs == 1:
        for cell in cells:
            yield cell, run_cell(cell, experiment.name, place, rates[cell])
        return
    with _environment(WORKERS), ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker, (jobs,)) as pool:
        waiting = {pool.submit(run_cell, cell, experiment.name, place, rates[cell]): cell for cell in cells}
        try:
            yield from ((waiting[future], future.result()) for future in as_completed(waiting))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """What processes that are started inside inherit."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _choice(options: argparse.Namespace, experiment: Experiment) -> Choice:
    tasks = tuple(options.tasks or experiment.tasks)
    methods = tuple(options.methods) if options.methods else None
    return Choice(
        options.base, tasks, tuple(options.seeds), methods, tuple(range(options.draws)), options.steps,
        options.max_records or None, options.separator, options.batch_size, options.beams,
        tuple(options.examples), tuple(options.rates), options.num_virtual_tokens,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    methods = (*METHODS, FROM_EXAMPLES, LARGE)
    listing = "\n".join(f"  {name:<10} {experiment.question}" for name, experiment in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python experiments",
        description=DESCRIPTION,
        epilog=EXAMPLES + listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "experiments", nargs="*", type=_known("experiment", EXPERIMENTS), metavar="EXPERIMENT", help="which, see below"
    )
    parser.add_argument("--base", metavar="MODEL", help="a directory or the id of a Hub repository")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="the folder that holds webnlg/, e2e/ ...")
    add = partial(_with_default, parser)
    of_experiment = {"nargs": "+", "shown": "the experiment's"}
    add("--tasks", None, ", ".join(TASKS), metavar="TASK", type=_known("task", TASKS), **of_experiment)
    add("--methods", None, ", ".join(methods), metavar="METHOD", type=_known("method", methods), **of_experiment)
    add("--seeds", [0, 1], "each a run of its own", "0 1", metavar="N", type=int, nargs="+")
    add("--draws", 5, "how often few examples are drawn", "5, the paper's", metavar="N", type=int)
    add("--steps", 400, "optimizer steps", metavar="N", type=int)
    few = {"metavar": "N", "type": int, "nargs": "+", "choices": LOW_DATA_STEPS}
    add("--examples", [*Choice.examples], "how few where they are few", "50 100 200 500", **few)
    add("--rates", [*Choice.rates], "tried, times a method's own", "0.25 1 4 16", metavar="R", type=float, nargs="+")
    add("--num-virtual-tokens", 10, "of prefixes, whose size the others have", metavar="N", type=int)
    add("--batch-size", 10, "pairs of a step", metavar="N", type=int)
    add("--beams", 5, "of the beam search; 1 writes greedily, 0 judges by the loss alone", metavar="N", type=int)
    parser.add_argument(
        "--recipes",
        action="store_true",
        help="the paper's hyperparameters (gpt2-medium, gpt2-large, facebook/bart-large)",
    )
    add("--max-records", 200, "judged of each split; 0 for all", metavar="N", type=int)
    add("--separator", " =>", "between source and target of a causal model", "' =>'")
    add("--mixed-precision", "bf16", "of the forward passes", choices=["no", "bf16", "fp16"])
    add("--jobs", 1, "cells at once, each in a process", metavar="N", type=int)
    add("--output", Path("runs/experiments"), "for cells.jsonl and plots", metavar="DIR", type=Path)
    parser.add_argument("--page", metavar="FILE", type=Path, help="write all that is there as a page as well")
    return parser


def _with_default(
    parser: argparse.ArgumentParser, flag: str, default: Any, text: str, shown: str | None = None, **options: Any
) -> None:
    parser.add_argument(flag, default=default, help=f"{text} (default: {shown or default})", **options)


def _known(kind: str, names: Collection[str]) -> Callable[[str], str]:
    """A type for arguments that are one of the names."""

    def known(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"unknown {kind} {name!r}; choose from {', '.join(names)}.")
        return name

    return known
