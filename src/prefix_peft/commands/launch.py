"""Whether a launch got what it asked for. Accelerate falls back without a word where it cannot give it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs


def find_ranks() -> PartialState:
    """This process's place among those of the launch: one of several under torchrun, else the only one.

    Raises:
        ValueError: several were asked for, and this process is alone.
    """
    state = PartialState(cpu=_without_accelerator())
    _check_processes(state)
    return state


def find_accelerator(mixed_precision: str | None) -> Accelerator:
    """Accelerate as it was launched, also by torchrun where CPUs are all there is.

    Raises:
        ValueError: the launch did not get what it asked for.
    """
    if _without_accelerator() and _is_asked_for(DistributedType.DEEPSPEED):  # which has a way of its own with CPUs
        accelerator = Accelerator(
            mixed_precision=mixed_precision, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")]
        )
    else:
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=_without_accelerator())
    check_launch(accelerator.state)
    return accelerator


def _without_accelerator() -> bool:
    """Accelerate has to be told: its processes do not see each other otherwise."""
    return not torch.accelerator.is_available()


def check_launch(state: AcceleratorState) -> None:
    """Refuse to go on as another run than the one that was asked for.

    Raises:
        ValueError: one process where several were asked for, or no FSDP or DeepSpeed where that was.
    """
    _check_processes(state)
    for name in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        alone = name == DistributedType.FSDP and state.num_processes == 1  # nobody to share with
        if _is_asked_for(name) and state.distributed_type != name and not alone:
            raise ValueError(
                f"{name.value} was asked for but is not in force: on {state.device.type} with {state.num_processes} "
                f"process(es) Accelerate runs {state.distributed_type.value} instead, and each would hold the whole "
                f"model. {_ADVICE[name]}"
            )


def _is_asked_for(name: DistributedType) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name.value}", "false").lower() == "true"


_ADVICE = {
    DistributedType.FSDP: "FSDP needs an accelerator for each of two or more processes; on CPUs launch without it.",
    DistributedType.DEEPSPEED: "Launch it without --cpu (use_cpu: false), also where CPUs are all there is.",
}


def _check_processes(state: PartialState | AcceleratorState) -> None:
    if state.num_processes > 1:
        return
    started = int(os.environ.get("WORLD_SIZE", "1"))
    asked = started if started > 1 else _asked_of_accelerate()
    if asked > 1:
        raise ValueError(
            f"{asked} processes were asked for, and each would train by itself, as the only one. "
            f"On CPUs `accelerate launch` starts one: use `torchrun --nproc_per_node {asked} -m prefix_peft ...` "
            "there. On GPUs, see that torch.cuda.is_available()."
        )


def _asked_of_accelerate() -> int:
    """How many processes ``accelerate launch`` was asked for; 1 where this one was started in another way."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "MASTER_PORT" not in os.environ:
        return 1  # it sets the second where several are asked for
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            command = process.cmdline()
            if "launch" in command[:4] and any("accelerate" in part for part in command[:4]):
                return _processes(command[command.index("launch") + 1 :])
    return 1


def _processes(arguments: list[str]) -> int:
    options, _ = launch_command_parser().parse_known_args(arguments)
    if options.num_processes is not None:
        return options.num_processes
    with suppress(OSError, ValueError):
        config: Any = load_config_from_file(options.config_file or default_config_file)
        return config.num_processes
    return 1
