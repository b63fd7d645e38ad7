"""Training checkpoints: the release, and beside it what a run needs to go on as if it had never stopped.

``training_state.safetensors`` holds the trained parameters as they are (the MLP too), the optimizer's moments and the
random states; ``training_state.json`` the counters, the arguments and the log. Neither is a pickle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from .arguments import RunArguments
from .states import check_tensors, read_state, read_tensors

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


@dataclass
class Progress:
    """How far a run is, and what it has logged."""

    step: int = 0  # optimizer steps done
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(
    model: PeftModel, optimizer: torch.optim.Optimizer, progress: Progress, arguments: RunArguments
) -> Path:
    """Write ``checkpoint-STEP`` whole or not at all: it is built beside its place and moved there at once."""
    target = Path(arguments.output_dir, f"checkpoint-{progress.step}")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft), selected_adapters=["default"])
    save_file(_tensors(model, optimizer), draft / f"{STATE}.safetensors")
    state = {"arguments": asdict(arguments), **asdict(progress)}
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
    state = read_state(directory / f"{STATE}.json")
    _check_arguments(directory, state.pop("arguments"), arguments)
    file = directory / f"{STATE}.safetensors"
    tensors = read_tensors(file)
    check_tensors(file, tensors, _trained(model), _frozen(model))
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
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    tensors |= {f"frozen.{name}": buffer for name, buffer in _frozen(model).items()}
    for name, parameter in _trained(model).items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _check_arguments(directory: Path, saved: dict[str, Any], arguments: RunArguments) -> None:
    now = asdict(arguments)
    changed = [key for key in now if key not in FREE and saved.get(key) != now[key]]
    if changed:
        listed = "; ".join(f"{key} was {saved.get(key)!r}, is now {now[key]!r}" for key in changed)
        raise ValueError(f"{directory} belongs to a run with other arguments: {listed}. Use the same, or start anew.")


def _restore(tensors: dict[str, Tensor], model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    for name, parameter in _trained(model).items():
        with torch.no_grad():
            parameter.copy_(tensors[f"parameter.{name}"])
        suffix = f".{name}"
        keys = [key for key in tensors if key.startswith("optimizer.") and key.endswith(suffix)]
        for key in keys:
            kind = key.removeprefix("optimizer.").removesuffix(suffix)
            value = tensors[key]
            optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)
    for name, buffer in _frozen(model).items():
        buffer.copy_(tensors[f"frozen.{name}"])
    torch.set_rng_state(tensors["random.cpu"])
    cuda = [tensors[key] for key in sorted(tensors) if key.startswith("random.cuda.")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
