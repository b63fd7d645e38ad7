"""Training checkpoints: the release, and beside it what a run needs to go on as if it had never stopped.

``training_state.safetensors`` holds the trained parameters as they are (the MLP too), the optimizer's moments and the
random states of all ranks; ``training_state.json`` the counters, the arguments and the log. Neither is a pickle. Both
are the same however a run was sharded: it goes on under DDP, FSDP2 or ZeRO, and on another number of ranks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..commands.arguments import RunArguments
from ..gathering import blueprint, full_parameter, full_prefix, set_parameter
from ..ranks.moments import moments, set_moments
from ..ranks.random_states import random_states, set_random_states
from ..whole import remove, whole_directory
from .states import check_tensors, read_state, read_tensors

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
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")  # their product with the ranks may not


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

    All ranks call it, for each may hold a part of what is saved; the first writes.

    Raises:
        OSError: it cannot be written; says where and why, and which checkpoint was the last good one.
    """
    output = Path(arguments.output_dir)
    target = output / f"checkpoint-{progress.step}"
    prefix, tensors, ranks = full_prefix(model), _tensors(model, optimizer), PartialState().num_processes
    state = {"arguments": asdict(arguments), "ranks": ranks, "scaler": _scaler_state(optimizer), **progress.to_keep()}
    if not PartialState().is_main_process:
        return target
    with writing(target, progress):
        _check_place(output, progress)
        with whole_directory(target) as draft:
            model.save_pretrained(str(draft), selected_adapters=["default"], state_dict=prefix)
            save_file(tensors, draft / f"{STATE}.safetensors")
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
    state = read_state(directory / f"{STATE}.json")
    saved, ranks = state.pop("arguments"), state.pop("ranks")
    _check_arguments(directory, saved, arguments)
    _check_batches(directory, saved, ranks, arguments)
    file = directory / f"{STATE}.safetensors"
    tensors = read_tensors(file)
    check_tensors(file, tensors, {name: blueprint(p) for name, p in _trained(model).items()}, _frozen(model))
    _restore(tensors, model, optimizer)
    saved_scale, scaler = state.pop("scaler", None), getattr(optimizer, "scaler", None)
    if saved_scale and scaler is not None:
        scaler.load_state_dict(saved_scale)
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
    tensors = {f"random.{name}": state for name, state in random_states().items()}
    tensors |= {f"frozen.{name}": buffer for name, buffer in _frozen(model).items()}
    for name, parameter in _trained(model).items():
        tensors[f"parameter.{name}"] = full_parameter(parameter)
        tensors |= {f"optimizer.{key}.{name}": value for key, value in moments(optimizer, parameter).items()}
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _check_arguments(directory: Path, saved: dict[str, Any], arguments: RunArguments) -> None:
    now = asdict(arguments)
    saved = {choice.name: choice.default for choice in fields(arguments)} | saved  # an older version had no choice
    changed = [key for key in now if key not in {*FREE, *BATCH} and saved.get(key) != now[key]]
    if changed:
        listed = "; ".join(f"{key} was {saved.get(key)!r}, is now {now[key]!r}" for key in changed)
        raise ValueError(f"{directory} belongs to a run with other arguments: {listed}. Use the same, or start anew.")


def _check_batches(directory: Path, saved: dict[str, Any], ranks: int, arguments: RunArguments) -> None:
    """The pairs of a step may be cut into other batches, and shared by other ranks, where nothing else is random."""
    then: list[Any] = [saved.get(key) for key in BATCH] + [ranks]
    now = [asdict(arguments)[key] for key in BATCH] + [PartialState().num_processes]
    if then == now:
        return
    if not all(isinstance(number, int) and number > 0 for number in then):
        raise ValueError(f"{directory} belongs to no run: {[*BATCH, 'ranks']} are {then}.")
    words = "{} pairs a batch x {} batches x {} ranks"
    if math.prod(then) != math.prod(now):
        raise ValueError(
            f"{directory} belongs to a run whose steps have {math.prod(then)} pairs ({words.format(*then)}), now it "
            f"would be {math.prod(now)} ({words.format(*now)}). Choose batches of the same product."
        )
    if getattr(arguments, "prefix_dropout", 0.0) or getattr(arguments, "base_dropout", False):
        raise ValueError(
            f"{directory} belongs to a run of {words.format(*then)}, now {words.format(*now)}; with dropout each "
            "rank draws random numbers of its own, which would not go on. Use the same, or start anew."
        )


def _restore(tensors: dict[str, Tensor], model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    for name, parameter in _trained(model).items():
        set_parameter(parameter, tensors[f"parameter.{name}"])
        keys = [key for key in tensors if key.startswith("optimizer.") and key.endswith(f".{name}")]
        kinds = {key.removeprefix("optimizer.").removesuffix(f".{name}"): tensors[key] for key in keys}
        set_moments(optimizer, parameter, kinds)
    for name, buffer in _frozen(model).items():
        buffer.copy_(tensors[f"frozen.{name}"])
    set_random_states({key.removeprefix("random."): tensors[key] for key in tensors if key.startswith("random.")})
