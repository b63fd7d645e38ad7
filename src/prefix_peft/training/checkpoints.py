"""Training checkpoints: the release, and beside it what a run needs to go on as if it had never stopped.

``training_state.safetensors`` holds the trained parameters as they are (the MLP too), the optimizer's moments and the
random states of all ranks; ``training_state.json`` the counters, the arguments and the log. Neither is a pickle. Both
are the same however a run was sharded: it goes on under DDP, FSDP2 or ZeRO, and on another number of ranks.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..gathering import full_parameter, full_prefix, full_shape, set_parameter
from .arguments import RunArguments
from .moments import moments, set_moments
from .random_states import random_states, set_random_states

STATE = "training_state"
# What may differ when a run is resumed: where things are written and how often they are said.
FREE = {
    "output_dir",
    "resume_from_checkpoint",
    "save_steps",
    "logging_steps",
    "eval_steps",
    "per_device_eval_batch_size",
}
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")  # their product with the ranks may not


@dataclass
class Progress:
    """How far a run is, and what it has logged."""

    step: int = 0  # optimizer steps done
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(
    model: PeftModel, optimizer: torch.optim.Optimizer, progress: Progress, arguments: RunArguments
) -> Path:
    """Write ``checkpoint-STEP`` whole or not at all: it is built beside its place and moved there at once.

    All ranks call it, for each may hold a part of what is saved; the first writes.
    """
    target = Path(arguments.output_dir, f"checkpoint-{progress.step}")
    prefix, tensors, ranks = full_prefix(model), _tensors(model, optimizer), PartialState().num_processes
    if not PartialState().is_main_process:
        return target
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft), selected_adapters=["default"], state_dict=prefix)
    save_file(tensors, draft / f"{STATE}.safetensors")
    state = {"arguments": asdict(arguments), "ranks": ranks, **asdict(progress)}
    (draft / f"{STATE}.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    if target.exists():  # moved away whole, for one half removed would look like a checkpoint
        target.rename(old := draft.with_name(f"{draft.name}.old"))
        draft.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        draft.replace(target)
    return target


def load_checkpoint(
    directory: Path, model: PeftModel, optimizer: torch.optim.Optimizer, arguments: RunArguments
) -> Progress:
    """Put model, optimizer and random states where the checkpoint left them; arguments and shapes are checked first.

    Raises:
        ValueError: the checkpoint is of a run with other arguments or another prefix, with the differences; or its file
            is broken.
        FileNotFoundError: the directory holds no training state.
    """
    path = directory / f"{STATE}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is no training checkpoint: it has no {path.name}.")
    state = json.loads(path.read_text(encoding="utf-8"))
    saved, ranks = state.pop("arguments"), state.pop("ranks")
    _check_arguments(directory, saved, arguments)
    _check_batches(directory, saved, ranks, arguments)
    try:
        tensors = load_file(directory / f"{STATE}.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{directory / STATE}.safetensors is broken ({error}); resume from an earlier one.") from error
    _check_shapes(directory, tensors, model)
    _restore(tensors, model, optimizer)
    return Progress(**state)


def last_checkpoint(output_dir: Path) -> Path:
    """The checkpoint of the highest step."""
    found = {
        int(m[1]): path
        for path in output_dir.glob("checkpoint-*")
        if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    if not found:
        raise FileNotFoundError(f"{output_dir} holds no checkpoint-STEP to resume from.")
    return found[max(found)]


def _trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _frozen(model: PeftModel) -> dict[str, Tensor]:
    """What no optimizer changes and another start of the prefix would."""
    return {name: buffer for name, buffer in model.named_buffers() if ".prefix_kv_encoder." in name}


def _tensors(model: PeftModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"random.{name}": state for name, state in random_states().items()}
    tensors |= {f"frozen.{name}": buffer for name, buffer in _frozen(model).items()}
    for name, parameter in _trained(model).items():
        tensors[f"parameter.{name}"] = full_parameter(parameter)
        tensors |= {f"optimizer.{key}.{name}": value for key, value in moments(optimizer, parameter).items()}
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _check_arguments(directory: Path, saved: dict[str, Any], arguments: RunArguments) -> None:
    now = asdict(arguments)
    changed = [key for key in now if key not in {*FREE, *BATCH} and saved.get(key) != now[key]]
    if changed:
        listed = "; ".join(f"{key} was {saved.get(key)!r}, is now {now[key]!r}" for key in changed)
        raise ValueError(f"{directory} belongs to a run with other arguments: {listed}. Use the same, or start anew.")


def _check_batches(directory: Path, saved: dict[str, Any], ranks: int, arguments: RunArguments) -> None:
    """The pairs of a step may be cut into other batches, and shared by other ranks, where nothing else is random."""
    then = [saved[key] for key in BATCH] + [ranks]
    now = [asdict(arguments)[key] for key in BATCH] + [PartialState().num_processes]
    if then == now:
        return
    words = "{} pairs a batch x {} batches x {} ranks"
    if math.prod(then) != math.prod(now):
        raise ValueError(
            f"{directory} belongs to a run whose steps have {math.prod(then)} pairs ({words.format(*then)}), now it "
            f"would be {math.prod(now)} ({words.format(*now)}). Choose batches of the same product."
        )
    if getattr(arguments, "prefix_dropout", 0.0):
        raise ValueError(
            f"{directory} belongs to a run of {words.format(*then)}, now {words.format(*now)}; with --prefix-dropout "
            "each rank draws random numbers of its own, which would not go on. Use the same, or start anew."
        )


def _check_shapes(directory: Path, tensors: dict[str, Tensor], model: PeftModel) -> None:
    needed = {f"parameter.{name}": tuple(full_shape(parameter)) for name, parameter in _trained(model).items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key.startswith("parameter.")}
    if needed != found:
        faults = [f"{key} is {found.get(key)}, needed {needed.get(key)}" for key in sorted(needed.keys() | found.keys())
                  if needed.get(key) != found.get(key)]  # fmt: skip
        raise ValueError(f"{directory} does not fit this model: " + "; ".join(faults[:6]))


def _restore(tensors: dict[str, Tensor], model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    for name, parameter in _trained(model).items():
        set_parameter(parameter, tensors[f"parameter.{name}"])
        keys = [key for key in tensors if key.startswith("optimizer.") and key.endswith(f".{name}")]
        kinds = {key.removeprefix("optimizer.").removesuffix(f".{name}"): tensors[key] for key in keys}
        set_moments(optimizer, parameter, kinds)
    for name, buffer in _frozen(model).items():
        buffer.copy_(tensors[f"frozen.{name}"])
    set_random_states({key.removeprefix("random."): tensors[key] for key in tensors if key.startswith("random.")})
