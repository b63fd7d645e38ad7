"""The command: ``python tests/notebooks --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the Hub, which other tests use as well

from nbclient.exceptions import CellExecutionError
from page import page
from pairing import pair, sources
from running import Seen, run

DESCRIPTION = """Write each notebook of examples/ beside its source, run it offline, and say how long it takes. What it
printed and drew is kept in a copy."""
EXAMPLES = """examples:
  python tests/notebooks                                all
  python tests/notebooks 1 6                            some, by their numbers
  python tests/notebooks --page examples/README.md      all, and the page (make notebooks)
  python tests/notebooks --write                        write them and run none
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where a notebook fails."""
    options = _parse(arguments)
    chosen = [pair(source) for source in sources() if not options.numbers or source.name[0] in options.numbers]
    if not chosen:
        raise SystemExit(f"no notebook has a number of {options.numbers}; they are {[s.stem for s in sources()]}.")
    if options.write:
        return 0
    seen = [_run(path, options.output / path.stem) for path in chosen]
    finished = [notebook for notebook in seen if notebook is not None]
    if options.page is not None and len(finished) == len(sources()):
        options.page.write_text(page(finished), encoding="utf-8")
    return int(len(finished) < len(chosen))


def _run(path: Path, directory: Path) -> Seen | None:
    try:
        seen = run(path, directory)
    except CellExecutionError as fault:
        print(f"{path.name} fails: {fault}", file=sys.stderr)
        return None
    print(f"{seen.seconds:6.1f} s  {directory / path.name}", flush=True)
    return seen


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/notebooks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("numbers", metavar="N", nargs="*", help="which notebooks (default: all)")
    parser.add_argument("--write", action="store_true", help="write the .ipynb, run nothing")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("runs/notebooks"), help="for the copies")
    parser.add_argument("--page", metavar="FILE", type=Path, default=None, help="the page, where all of them ran")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
