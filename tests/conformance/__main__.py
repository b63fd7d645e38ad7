"""The command: ``python tests/conformance --help``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import textwrap
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tiny, which all tests share

from report import markdown, totals
from runner import CHECKS, EXCUSED, FAIL, NOT_APPLICABLE, PASS, Result, run
from tqdm import tqdm
from zoo import cases

DESCRIPTION = """Check a tiny random model of every architecture of transformers' AutoModelForCausalLM and
AutoModelForSeq2SeqLM mappings: with a prefix of random content first, and, where that fails, without one. What the bare
model cannot do either is excused. Nothing is downloaded."""
EXAMPLES = """examples:
  python tests/conformance                                    everything
  python tests/conformance --only 'llama|t5$' --verbose       some architectures, with the traces of what fails
  python tests/conformance --checks greedy,padded_generate    some checks
  python tests/conformance --output docs/architectures.md     write the table
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where anything fails."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    chosen = [case for case in cases() if re.search(options.only, str(case))]
    if not chosen:
        raise SystemExit(f"no architecture matches --only {options.only!r}; they are named like causal/llama.")
    work = partial(run, names=options.checks, limit=options.limit)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        progress = tqdm(pool.imap_unordered(work, chosen), total=len(chosen), unit="model", disable=options.quiet)
        results = [result for part in progress for result in part]
    results.sort(key=lambda result: chosen.index(result.case))
    _show(results, options.verbose)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(markdown(results, " ".join(["python tests/conformance", *arguments])), "utf-8")
    return int(any(result.outcome == FAIL for result in results))


def _parse(arguments: list[str]) -> argparse.Namespace:
    listing = textwrap.indent("\n".join(f"{name:<18} {_first_line(name)}" for name in CHECKS), "  ")
    parser = argparse.ArgumentParser(
        prog="python tests/conformance",
        description=DESCRIPTION,
        epilog=f"{EXAMPLES}\nchecks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="REGEX", default="", help="architectures whose task/name this expression finds"
    )
    parser.add_argument("--checks", metavar="A,B", type=_checks, default=list(CHECKS), help="these checks, not all")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--limit", metavar="SECONDS", type=int, default=60, help="for one check (default: 60)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the table here, in Markdown")
    parser.add_argument("--verbose", action="store_true", help="show the traces of what fails")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def _first_line(name: str) -> str:
    return (CHECKS[name].__doc__ or "").splitlines()[0]


def _checks(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there are no checks {unknown}; choose from {list(CHECKS)}.")
    return names


def _show(results: list[Result], verbose: bool) -> None:
    for result in results:
        if result.outcome == FAIL:
            print(f"FAIL {result.case} {result.check}: {result.reason}")
            if verbose:
                print(textwrap.indent(result.details, "    "))
    counts = totals(results)
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in (PASS, EXCUSED, FAIL, NOT_APPLICABLE)))


if __name__ == "__main__":
    sys.exit(main())
