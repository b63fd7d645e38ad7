"""SIGTERM to one of two ranks: both stop behind the same step, and both go on."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from torch import Tensor, nn

from prefix_peft.__main__ import main
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.training import train as training

from . import forks, runs


def outcome(folder: Path, step: int) -> str:
    """What did not hold when the second rank got the signal about ``step``; '' where all did."""
    output = folder / f"ranks-{step}"
    command = runs.command(folder, output, save_steps=0)
    if fault := _statuses(folder, command, step, wanted=143):
        return fault
    if len(left := [path.name for path in output.iterdir()]) != 1 or not left[0].startswith("checkpoint-"):
        return f"about step {step}: there is {left}"
    return _statuses(folder, [*command, "--resume-from-checkpoint"], None, wanted=0)


def _statuses(folder: Path, command: list[str], step: int | None, wanted: int) -> str:
    said, port = [folder / f"said-{rank}" for rank in range(2)], _free_port()
    ranks = [forks.fork(lambda rank=rank: _run(command, rank, port, step), said[rank]) for rank in range(2)]
    statuses = [forks.finish(rank) for rank in ranks]
    return "" if statuses == [wanted] * 2 else f"statuses {statuses}, said {said[1].read_text('utf-8')[-500:]}"


def _run(command: list[str], rank: int, port: int, step: int | None) -> int:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    passes = iter(range(10**6))

    def loss_of(model: nn.Module, batch: dict[str, Tensor], is_encoder_decoder: bool) -> tuple[Tensor, Tensor]:
        if rank == 1 and step and model.training and next(passes) == 2 * (step - 1):  # two to most steps
            os.kill(os.getpid(), signal.SIGTERM)
        return target_loss(model, batch, is_encoder_decoder)

    training.target_loss = loss_of
    return main(command)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
