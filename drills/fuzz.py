"""Files and command lines with something wrong in them, by the ten thousand."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import logging as transformers_logging

from .hostile.dice import Dice, seeded
from .hostile.judge import Tally, Target, bounded_memory, judge
from .hostile.peers import Peer
from .hostile.releases import CONFIG, WEIGHTS, Releases
from .hostile.runs import CommandLines, Data, Prompts, States
from .outcome import Outcome

HOW = """Each case is a whole file (or command line) of which one to three things are changed: values of other types,
huge, negative or no numbers, nesting, encodings, doubled and unknown keys, expressions without an end, paths, lengths,
shapes, offsets and bytes. It is either taken, and then what is in memory is compared with what the file says, read by
other code than ours; or it is refused with a `ValueError`, `TypeError` or `OSError` (`KeyError` for a `peft_type` that
PEFT does not know) within a second of processor time and a GiB of memory, and afterwards every number, module, hook,
flag and adapter of the model is compared with what it was; every hundredth time the logits too. A case is made by its
seed, which a fault names."""
RIGHT = "right, or refused in words, at once and without a trace"
QUICK = {
    CONFIG: 5_000, WEIGHTS: 4_000, "training checkpoints": 3_000,
    "prompt.json": 1_500, "data files": 5_000, "command lines": 1_500,
}  # fmt: skip
MORE = 25  # times as many in the long form
PEERS = 20  # of so many cases, one is given to PEFT


def drill(quick: bool) -> Iterator[Outcome]:
    """One row for each kind of file, and one for command lines."""
    factor = 1 if quick else MORE
    with TemporaryDirectory(dir=_in_memory()) as folder, quiet():
        for name in QUICK:
            target, count = make(name, Path(folder)), QUICK[name] * factor
            with bounded_memory():
                tally = judge(target, ((f"seed {seed}", seeded(seed)) for seed in range(count)))
                peer = _peer(target, Path(folder), count // PEERS)
            yield Outcome(f"{name} {_said(tally)}", RIGHT, tally.tried, tally.held, peer, tuple(tally.faults))


def make(name: str, folder: Path) -> Target:
    """One of `QUICK`, in a directory of its own."""
    path = _directory(folder, name)
    kinds = {"training checkpoints": States, "prompt.json": Prompts, "data files": Data, "command lines": CommandLines}
    return kinds[name](path) if name in kinds else Releases(path, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what PEFT and transformers say of each file."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        transformers_logging.enable_progress_bar()


def _peer(target: Target, folder: Path, count: int) -> str:
    if not isinstance(target, Releases):
        return "-"
    cases: list[Dice] = [seeded(seed) for seed in range(count)]
    return Peer(_directory(folder, f"peer {target.file}"), target.file).said(cases)


def _directory(folder: Path, name: str) -> Path:
    path = folder / name.replace(" ", "-")
    path.mkdir()
    return path


def _said(tally: Tally) -> str:
    return f"({tally.accepted:,} taken, {tally.refused:,} refused)"


def _in_memory() -> str | None:
    """Where files cost no disk, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
