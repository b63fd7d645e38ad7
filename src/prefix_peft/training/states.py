"""The state in a training checkpoint, looked at whole before a run takes it over: it may be anyone's, or half."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..untrusted import check_inside, read_json

LARGEST_STATE = 2**28  # bytes of JSON; a log of a million steps has half of it
MOST_STEPS = 2**53
SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}  # torch's GradScaler
COUNTS = (torch.float32, torch.float64)  # torch's optimizers count in its default dtype
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, of a parameter's own shape
NOT_FINITE = "holds NaN or infinity"

Shaped = Mapping[str, Tensor]  # by name


def read_state(path: Path) -> dict[str, Any]:
    """The counters, arguments and log of a run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is no training checkpoint: it has no {path.name}.")
    state = read_json(check_inside(path.parent, path), LARGEST_STATE)
    known = {"arguments": dict, "step": int, "seconds": (int, float), "log": list, "ranks": int}
    known["scaler"] = (dict, type(None))
    needed = known.keys() - {"scaler"}
    if unknown := sorted((state.keys() - known.keys()) | (needed - state.keys())):
        raise ValueError(f"{path} must have the fields {sorted(needed)}; unknown or missing: {unknown}.")
    for key, value in state.items():
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise ValueError(f"{path} has {key}={str(value)[:100]}, which is of another type.")
    if not 0 <= state["step"] <= MOST_STEPS or not 0 <= state["seconds"] < math.inf:
        raise ValueError(f"{path} has step={state['step']}, seconds={state['seconds']}: no run was ever there.")
    scaler = state.get("scaler") or dict.fromkeys(SCALER, 0)
    if scaler.keys() != SCALER or not all(type(n) in (int, float) and 0 <= n < math.inf for n in scaler.values()):
        raise ValueError(f"{path} has scaler={str(scaler)[:100]}, which is no state of a GradScaler.")
    if not all(isinstance(entry, dict) and isinstance(entry.get("step"), int) for entry in state["log"]):
        raise ValueError(f"{path} has a log that is no list of steps.")
    return state


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a run, in memory: mapped ones would change with the file, under the optimizer that goes on.

    Raises:
        ValueError: there is no such file, or it is broken.
    """
    if not check_inside(path.parent, path).is_file():
        raise ValueError(f"{path} is not there; resume from an earlier checkpoint.")
    try:
        return load_file(path, backend="pread")
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}); resume from an earlier one.") from error


def check_tensors(path: Path, tensors: Shaped, parameters: Shaped, frozen: Shaped) -> None:
    """Refuse tensors that are not those of a run that trains ``parameters`` and leaves ``frozen`` alone.

    Raises:
        ValueError: with the first faults.
    """
    faults = list(_faults(tensors, parameters, frozen))
    if faults:
        raise ValueError(f"{path} does not fit this model: {'; '.join(faults[:6])}. Resume from an earlier checkpoint.")


def _faults(tensors: Shaped, parameters: Shaped, frozen: Shaped) -> Iterator[str]:
    needed = {f"parameter.{name}": tensor for name, tensor in parameters.items()}
    needed |= {f"frozen.{name}": tensor for name, tensor in frozen.items()}
    moments = {f"optimizer.{kind}.{name}": tensor for kind in MOMENTS for name, tensor in parameters.items()}
    steps = {f"optimizer.step.{name}" for name in parameters}
    for key in sorted(needed.keys() | (tensors.keys() & moments.keys())):
        like, found = needed.get(key, moments.get(key)), tensors.get(key)
        if found is None or like is None or found.shape != like.shape or found.dtype != like.dtype:
            yield f"{key} is {_said(found)}, needed {_said(like)}"
        elif not torch.isfinite(found).all():
            yield f"{key} {NOT_FINITE}"
        elif key.startswith("optimizer.exp_avg_sq.") and (found < 0).any():
            yield f"{key} holds squares below 0"
    for key in sorted(steps & tensors.keys()):
        if tensors[key].numel() != 1 or tensors[key].dtype not in COUNTS or not 1 <= tensors[key].item() < math.inf:
            yield f"{key} is no count of steps"
    for name in parameters:
        kept = [f"optimizer.{kind}.{name}" in tensors for kind in ("step", *MOMENTS)]
        if any(kept) and not all(kept):
            yield f"of {name} only a part of the optimizer's state is there"
    if tensors.keys() & steps == set() and steps:
        yield "the optimizer's state is not there"
    yield from _random_faults(tensors)
    random = {key for key in tensors if key.startswith("random.")}
    yield from (f"unexpected {key}" for key in sorted(tensors.keys() - needed.keys() - moments.keys() - steps - random))


def _random_faults(tensors: Shaped) -> Iterator[str]:
    if "random.cpu.0" not in tensors:
        yield "random.cpu.0 is not there"
    for key in sorted(key for key in tensors if key.startswith("random.")):
        device = key.split(".")[1]
        if device == "cuda" and not torch.cuda.is_available():
            continue  # nothing will use it
        try:
            torch.Generator(device).set_state(tensors[key])
        except (RuntimeError, TypeError) as error:
            yield f"{key} is no state of a random generator ({str(error).splitlines()[0]})"


def _said(tensor: Tensor | None) -> str:
    return "not there" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
