"""Kill a training run at random moments, and see whether it ends as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from . import forks, killed_trainer, runs
from .outcome import Counts, Outcome

KILLS_A_RUN = 3
HOW = f"""`prefix-peft train --resume-from-checkpoint` trains a tiny model (MLP, dropout on the prefix, accumulation,
batches of like lengths, validation, a checkpoint every 2 of its 24 steps, of which the last 3 stay). It is killed with
SIGKILL, started by the same command, and so on until it has been killed {KILLS_A_RUN} times and then comes to its end.
One of three kills strikes within a fifth of a run's length, mostly before there is a checkpoint; one after a certain
checkpoint has been written; and one after the draft of a certain checkpoint appears, on a disk that was slowed down,
within the time that the write takes. A process is a copy (fork) of one that has imported everything, so that kills do
not cost an import."""
SIGNS = ("", "checkpoint-{}", ".checkpoint-{}.*")  # what a kill waits for
SLOW = 0.01  # seconds that each wait for the disk takes longer
SAVING = 0.15  # seconds within which a checkpoint is written then


def drill(quick: bool) -> Iterator[Outcome]:
    """Counts outside and inside of saving, and the ends of the runs."""
    draw, outside, inside, ends = random.Random(5), Counts(), Counts(), Counts()
    with runs.playground() as folder:
        started = time.monotonic()
        status = forks.finish(runs.start(_command(folder, folder / "whole"), folder / "said"))
        assert status == 0, f"status {status}, said {(folder / 'said').read_text('utf-8')}"
        length = time.monotonic() - started
        whole = runs.what_is_left(folder / "whole")
        for number in range(2 if quick else 12):
            output = folder / f"run{number}"
            for i in range(KILLS_A_RUN):
                sign = SIGNS[(number + i) % len(SIGNS)].format(8 * i + 2 * draw.randint(1, 3))
                moment = draw.uniform(0, SAVING if sign.startswith(".") else length / 5)
                _kill_one(folder, output, sign, moment, outside, inside)
            fault = _resume_to_the_end(folder, output, whole)
            ends.count(f"run {number}: {fault}" if fault else "")
        peft = killed_trainer.what_it_does(folder, 1 if quick else 10)
    held_if = "all that is there as a checkpoint can be read"
    yield outside.outcome("SIGKILL anywhere in a run", held_if)
    yield inside.outcome("SIGKILL while a checkpoint is written", held_if, peft)
    yield ends.outcome(
        f"runs killed {KILLS_A_RUN} times, resumed each time", "prefix, optimizer, random state and log bit for bit"
    )


def _command(folder: Path, output: Path) -> list[str]:
    return runs.command(folder, output, resume_from_checkpoint="last", save_total_limit=3)


def _kill_one(folder: Path, output: Path, sign: str, moment: float, outside: Counts, inside: Counts) -> None:
    process = runs.start(_command(folder, output), folder / "said", slow_disk if sign.startswith(".") else None)
    in_vain = forks.wait_for(f"{output.name}/{sign}", lambda: any(output.glob(sign)), process) if sign else ""
    time.sleep(moment)
    late = not process.is_alive()
    process.kill()
    process.join()
    if not late:
        in_a_save = any(output.glob(".checkpoint-*"))
        (inside if in_a_save else outside).count(in_vain or _broken(output))


def _resume_to_the_end(folder: Path, output: Path, whole: dict[str, Tensor | str]) -> str:
    """What differs in the end from the run that was never killed; '' for nothing."""
    if status := forks.finish(runs.start(_command(folder, output), folder / "said")):
        return f"status {status}, said {(folder / 'said').read_text('utf-8')[-500:]}"
    left = [path.name for path in output.iterdir() if path.name.startswith(".")]
    found = runs.differences(runs.what_is_left(output), whole)
    return f"other {found}, left over {left}" if found or left else ""


def slow_disk() -> None:
    """Let every wait for the disk take longer, in this process."""
    sync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(SLOW)
        sync(descriptor)

    os.fsync = slow


def _broken(output: Path) -> str:
    """What cannot be read of the checkpoints there."""
    for checkpoint in output.glob("checkpoint-*"):
        try:
            for name in ("adapter_model", "training_state"):
                load_file(checkpoint / f"{name}.safetensors")
            for name in ("adapter_config", "training_state"):
                json.loads((checkpoint / f"{name}.json").read_text("utf-8"))
        except Exception as error:
            return f"{checkpoint.name}: {type(error).__name__}: {error}"
    return ""
