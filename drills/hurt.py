"""A run that is hurt within a step and, when it has ended, healed and resumed: all in one child process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import AcceleratorState
from torch import Tensor, nn

from prefix_peft.__main__ import main
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.training import train as training

from . import forks, runs

STEPS, SAVE_STEPS, PASSES = runs.HARD["max-steps"], runs.HARD["save-steps"], 2  # passes of a step: it accumulates
Spoil = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Wound:
    """What is done to a run whose output directory is given, and what has to come of it."""

    hurt: Callable[[Path], object] = lambda output: None  # within the step
    heal: Callable[[Path], object] = lambda output: None  # after the run has ended
    before: Callable[[Path], object] = lambda output: None  # it starts
    spoil: Spoil = lambda model, loss: loss  # the loss of that step
    status: int = 2
    said: tuple[str, ...] = ()  # in the message, {step} and {last} filled in

    def last_good(self, step: int) -> int:
        """The step of the checkpoint that a run hurt in ``step`` has to name."""
        return (step - 1) // SAVE_STEPS * SAVE_STEPS


def outcome(folder: Path, name: str, wound: Wound, step: int) -> str:
    """What did not hold, after a run hurt in ``step`` and resumed; '' where all did."""
    report, said = folder / f"{name}.fault", folder / f"{name}.said"
    process = forks.fork(lambda: report.write_text(_hurt_and_resume(folder, name, wound, step, said)) * 0, said)
    status = forks.finish(process)
    return report.read_text() if status == 0 else f"the drill's process ended with {status}: {said.read_text()[-300:]}"


def _hurt_and_resume(folder: Path, name: str, wound: Wound, step: int, said: Path) -> str:
    output = folder / name
    wound.before(output)
    _hurt_in(step, wound, output)
    command = runs.command(folder, output)
    status = main(command)
    sys.stderr.flush()
    message = said.read_text("utf-8")
    wanted = [text.format(step=step, last=output / f"checkpoint-{wound.last_good(step)}") for text in wound.said]
    missing = [text for text in wanted if text not in message]
    if status != wound.status or missing or "Traceback" in message:
        return f"step {step}: status {status}, not said {missing}, said {message[-500:]}"
    training.target_loss = target_loss
    wound.heal(output)
    AcceleratorState._reset_state(reset_partial_state=True)
    status = main([*command, "--resume-from-checkpoint"])
    found = status or runs.differences(runs.what_is_left(output), runs.what_is_left(folder / "whole"))
    left = [path.name for path in output.iterdir() if path.name.startswith(".")]
    return f"step {step}: resumed with {found}, left over {left}" if found or left else ""


def _hurt_in(step: int, wound: Wound, output: Path) -> None:
    passes = iter(range(10**6))

    def loss_of(model: nn.Module, batch: dict[str, Tensor], is_encoder_decoder: bool) -> tuple[Tensor, Tensor]:
        loss, count = target_loss(model, batch, is_encoder_decoder)
        if model.training and next(passes) == PASSES * (step - 1):
            wound.hurt(output)
            loss = wound.spoil(model, loss)
        return loss, count

    training.target_loss = loss_of
