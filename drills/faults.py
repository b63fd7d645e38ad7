"""Disks that are full, read-only or gone, steps that are not finite, and signals: what is said, and what is left."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from . import forks, mounts, ranks_signalled, runs
from .hurt import STEPS, Wound, outcome
from .outcome import Counts, Outcome

HOW = """The run of the drill `kill` is hurt within a step drawn at random: the file system of its output directory
(a real one, mounted for it alone) is filled up but for a few kB, made read-only, or unmounted; the directory is moved
away; or the loss or its gradient is made infinite or not a number. The command must end with status 2 and no traceback,
and its message must name the path and the last good checkpoint; after a step that is not finite also the step and its
pairs. Or it gets SIGTERM or Ctrl-C, and must end with 143 or 130 and a checkpoint of that very step. Then the fault is
taken away, and the same command with `--resume-from-checkpoint` must end with the prefix, optimizer, random state and
log of a run that nothing happened to, bit for bit, and leave no drafts."""
SAID = "status 2, and the message says where and what; resumed, the same bits"
SAVED_BY_ALL = "both have stopped behind one step, with its checkpoint; resumed, both end"
SAVED = "a checkpoint of that step; resumed, the same bits"
UNWRITTEN = ("cannot be written: ", "The last good checkpoint is {last}: --resume-from-checkpoint goes on")
STOPPED = ("at step {step}; --resume-from-checkpoint goes on from",)
BAD = (
    " at step {step}, on the training pairs ",
    "The last good checkpoint is {last}: --resume-from-checkpoint goes on",
)


def drill(quick: bool) -> Iterator[Outcome]:
    """Each fault once, or ten times."""
    draw = random.Random(7)
    with runs.playground() as folder:
        said = folder / "said"
        assert forks.finish(runs.start(runs.command(folder, folder / "whole"), said)) == 0, said.read_text("utf-8")
        for number, (what, wound) in enumerate(wounds(draw).items()):
            counts = Counts()
            for i in range(1 if quick else 10):
                counts.count(outcome(folder, f"run-{number}-{i}", wound, draw.randint(3, STEPS - 2)))
            yield counts.outcome(what, SAVED if wound.status > 2 else SAID)
        counts = Counts()
        for step in draw.sample(range(3, STEPS - 2), 1 if quick else 5):
            counts.count(ranks_signalled.outcome(folder, step))
        yield counts.outcome("SIGTERM to one of two ranks", SAVED_BY_ALL)


def wounds(draw: random.Random) -> dict[str, Wound]:
    """By what is done."""
    on_disk = partial(Wound, before=mounts.new, said=UNWRITTEN)
    disks = {
        "disk full": on_disk(
            hurt=lambda output: mounts.leave_room(output, draw.randrange(4, 60, 4)),
            heal=lambda output: mounts.mount("-o", "remount,size=64m", mounts.store_of(output)),
        ),
        "disk read-only": on_disk(
            hurt=lambda output: mounts.mount("-o", "remount,ro", mounts.store_of(output)),
            heal=lambda output: mounts.mount("-o", "remount,rw", mounts.store_of(output)),
        ),
        "disk unmounted": on_disk(
            hurt=mounts.unmount, heal=lambda output: mounts.mount("--bind", mounts.store_of(output), output)
        ),
    }
    others = {
        "directory moved away": Wound(hurt=_move_away, heal=_move_back, said=UNWRITTEN),
        "loss not a number": Wound(spoil=lambda model, loss: loss * float("nan"), said=("the loss is nan", *BAD)),
        "loss infinite": Wound(spoil=lambda model, loss: loss * float("inf"), said=("the loss is inf", *BAD)),
        "gradient not a number": Wound(spoil=_no_gradient, said=("the gradient's norm is nan", *BAD)),
        "SIGTERM": Wound(hurt=lambda output: os.kill(os.getpid(), signal.SIGTERM), status=143, said=STOPPED),
        "SIGINT (Ctrl-C)": Wound(hurt=lambda output: os.kill(os.getpid(), signal.SIGINT), status=130, said=STOPPED),
    }
    return (disks if mounts.are_allowed() else {}) | others


def _move_away(output: Path) -> None:
    output.rename(mounts.store_of(output))


def _move_back(output: Path) -> None:
    mounts.store_of(output).rename(output)


def _no_gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """The same loss, whose gradient is not a number."""
    parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    return loss + (parameter.sum() * 0).abs().sqrt()
