"""Training checkpoints: the release, and beside it what a run needs to go on as if it had never stopped.

``training_state.safetensors`` holds the trained parameters as they are (the MLP too), the optimizer's moments and the
random states; ``training_state.json`` the counters, the arguments and the log. Neither is a pickle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..whole import remove, whole_directory
from .arguments import RunArguments

STATE = "training_state"
# What may differ when a run is resumed: where things are written, how often they are said, what bad steps lead to.
FREE = {
    "output_dir",
    "resume_from_checkpoint",
    "save_steps",
    "save_total_limit",
    "skip_nonfinite_steps",
    "logging_steps",
    "eval_steps",
    "per_device_eval_batch_size",
}


@dataclass
class Progress:
    """How far a run is, and what it has logged."""

    step: int = 0  # optimizer steps done
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: Path | None = None  # the last that was written or read
    place: tuple[int, int] | None = None  # device and number of the directory that the run writes to

    def to_keep(self) -> dict[str, Any]:
        """For JSON: all but where things lie."""
        return {"step": self.step, "seconds": self.seconds, "log": self.log}

    def last_good(self) -> str:
        """For an error: what is left to go on from."""
        if self.checkpoint is None:
            return "There is no checkpoint to go back to; --save-steps would write some."
        gone = "" if self.checkpoint.is_dir() else ", if what holds it comes back"
        return f"The last good checkpoint is {self.checkpoint}: --resume-from-checkpoint goes on from it{gone}."


def save_checkpoint(
    model: PeftModel, optimizer: torch.optim.Optimizer, progress: Progress, arguments: RunArguments
) -> Path:
    """Write ``checkpoint-STEP`` whole or not at all, then remove those before the last ``save_total_limit``.

    Raises:
        OSError: it cannot be written; says where and why, and which checkpoint was the last good one.
    """
    output = Path(arguments.output_dir)
    target = output / f"checkpoint-{progress.step}"
    with writing(target, progress):
        _check_place(output, progress)
        with whole_directory(target) as draft:
            model.save_pretrained(str(draft), selected_adapters=["default"])
            save_file(_tensors(model, optimizer), draft / f"{STATE}.safetensors")
            state = {"arguments": asdict(arguments), "scaler": _scaler_state(optimizer), **progress.to_keep()}
            (draft / f"{STATE}.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    if arguments.save_total_limit:
        earlier = [path for step, path in sorted(_checkpoints(output).items()) if step <= progress.step]
        for path in earlier[: -arguments.save_total_limit]:
            remove(path)
    return target


@contextmanager
def writing(target: Path, progress: Progress) -> Iterator[None]:
    """Let an error inside the ``with`` block say what could not be written, and what is left."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(f"{target} cannot be written: {error}. {progress.last_good()}") from error


def _check_place(output: Path, progress: Progress) -> None:
    """Refuse a directory that is not the one of before: what was mounted there would hide what is written now."""
    kept = progress.checkpoint is not None and progress.checkpoint.is_dir()
    if progress.place is not None and place_of(output) != progress.place and not kept:
        raise FileNotFoundError("it is another directory than when the run began (was something unmounted?)")


def place_of(directory: Path) -> tuple[int, int]:
    """What tells a directory from another one of the same name."""
    found = directory.stat()
    return found.st_dev, found.st_ino


def checkpoint_to_resume(arguments: RunArguments) -> Path | None:
    """The directory that ``--resume-from-checkpoint`` means.

    None to start anew: where it is not given, and where there is no 'last' one yet, so that a job which its cluster
    starts again and again is one and the same command from the first time on.
    """
    wanted = arguments.resume_from_checkpoint
    if wanted != "last":
        return None if wanted is None else Path(wanted)
    found = _checkpoints(Path(arguments.output_dir))
    return found[max(found)] if found else None


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
    _check_arguments(directory, state.pop("arguments"), arguments)
    try:
        tensors = load_file(directory / f"{STATE}.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{directory / STATE}.safetensors is broken ({error}); resume from an earlier one.") from error
    _check_shapes(directory, tensors, model)
    _restore(tensors, model, optimizer)
    if scaler := state.pop("scaler", None):
        optimizer.scaler.load_state_dict(scaler)  # pyright: ignore[reportAttributeAccessIssue]
    return Progress(**state, checkpoint=directory)


def _checkpoints(output_dir: Path) -> dict[int, Path]:
    """Those of a run, by step."""
    return {
        int(m[1]): path
        for path in output_dir.glob("checkpoint-*")
        if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }


def _trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _frozen(model: PeftModel) -> dict[str, Tensor]:
    """What no optimizer changes and another start of the prefix would."""
    return {name: buffer for name, buffer in model.named_buffers() if ".prefix_kv_encoder." in name}


def _scaler_state(optimizer: torch.optim.Optimizer) -> dict[str, float] | None:
    """What fp16 multiplies its gradients by, where Accelerate does so."""
    scaler = getattr(optimizer, "scaler", None)
    return None if scaler is None else scaler.state_dict()


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


def _check_shapes(directory: Path, tensors: dict[str, Tensor], model: PeftModel) -> None:
    needed = {f"parameter.{name}": tuple(parameter.shape) for name, parameter in _trained(model).items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key.startswith("parameter.")}
    if needed != found:
        faults = [f"{key} is {found.get(key)}, needed {needed.get(key)}" for key in sorted(needed.keys() | found.keys())
                  if needed.get(key) != found.get(key)]  # fmt: skip
        raise ValueError(f"{directory} does not fit this model: " + "; ".join(faults[:6]))


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
    cuda = [tensors[f"random.cuda.{i}"] for i in range(torch.cuda.device_count()) if f"random.cuda.{i}" in tensors]
    torch.cuda.set_rng_state_all(cuda)
