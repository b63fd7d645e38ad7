"""The command line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from benchmarks import machine

from . import cycles, faults, forks, fuzz, kill, outcome, ranks, threads
from .outcome import Outcome, Record


class Drill(Protocol):
    """A module of this folder that can be asked for by its name."""

    HOW: str  # what is done, for the page
    drill: Callable[[bool], Iterator[Outcome]]  # of whether it is to be quick


DRILLS: dict[str, Drill] = {
    "ranks": ranks,
    "kill": kill,
    "faults": faults,
    "cycles": cycles,
    "fuzz": fuzz,
    "threads": threads,
}
DESCRIPTION = "Do to training, files and threads what must do no harm, and count how often it did none."
EXAMPLES = """examples:
  python drills all --quick                     every drill in its short form (minutes)
  python drills all --page docs/drills.md       every drill in full, and the page (make drills; longer)

Drills that an earlier command left in results.json stay on the page until they are run again."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where anything did not hold."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    file = options.output / "results.json"
    records = outcome.load(file)
    forks.prepare()
    names = list(DRILLS) if "all" in options.drills else options.drills
    for name in names:
        start = time.monotonic()
        outcomes = tuple(DRILLS[name].drill(options.quick))
        records[name] = Record(" ".join(["python drills", *arguments]), time.monotonic() - start, outcomes)
        outcome.save(records, file)
        print(f"\n{name}", outcome.table(outcomes), outcome.faults(outcomes), sep="\n", flush=True)
    records = {name: records[name] for name in DRILLS if name in records}
    if options.page:
        how = {name: module.HOW for name, module in DRILLS.items()}
        options.page.write_text(outcome.page(records, how, _machine()), "utf-8")
    return int(any(row.held < row.tried for name in names for row in records[name].outcomes))


def _machine() -> str:
    found = machine.describe("cpu")
    versions = ", ".join(f"{name} {found[name]}" for name in machine.PACKAGES)
    return f"{found['processor']}, {found['cores']} cores; Python {found['python']}, {versions}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python drills",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("drills", nargs="+", choices=[*DRILLS, "all"], help="which; 'all' for each of them")
    parser.add_argument("--quick", action="store_true", help="the short form, with fewer tries")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("runs/drills"), help="for results.json")
    parser.add_argument("--page", metavar="FILE", type=Path, default=None, help="write the page as well")
    return parser
