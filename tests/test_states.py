"""A training checkpoint that somebody else wrote, or half of one: it goes on, or is refused by what is wrong."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from test_training import folder, options  # noqa: F401  (a fixture)
from test_untrusted import Trap

from prefix_peft.training.train import train


@pytest.fixture(scope="module")
def checkpoint(folder, tmp_path_factory):  # noqa: F811
    path = tmp_path_factory.mktemp("run")
    train(options(folder, path, save_steps=4, num_frozen_tokens=1, gate=True))
    return path / "checkpoint-4"


def drop(key):
    return lambda state, tensors: tensors.pop(next(name for name in tensors if name.startswith(key)))


def put(key, value):
    def change(state, tensors):
        name = next(name for name in tensors if name.startswith(key))
        tensors[name] = value(tensors[name])

    return change


def said(**values):
    return lambda state, tensors: state.update(values)


BROKEN = {
    "no step": (lambda state, tensors: state.pop("step"), r"unknown or missing: \['step'\]"),
    "more": (said(spell="x"), r"unknown or missing: \['spell'\]"),
    "half a step": (said(step=1.5), "has step=1.5, which is of another type"),
    "before": (said(step=-1), "step=-1, .* no run was ever there"),
    "after": (said(step=10**400), "no run was ever there"),
    "time": (said(seconds=float("nan")), "seconds=nan: no run"),
    "scaler": (said(scaler={"scale": "x"}), "which is no state of a GradScaler"),
    "scale": (said(scaler={"scale": "x"}), "which is no state of a GradScaler"),
    "log": (said(log=[5]), "has a log that is no list of steps"),
    "arguments": (said(arguments=5), "has arguments=5, which is of another type"),
    "parameter": (drop("parameter."), "parameter.* is not there, needed"),
    "frozen": (drop("frozen."), "frozen.* is not there, needed"),
    "frozen shape": (put("frozen.", lambda t: t[:, :1, :1].clone()), "frozen.* needed"),
    "dtype": (put("parameter.", lambda t: t.double()), r"float64, needed .* float32"),
    "nan": (put("parameter.", lambda t: t.fill_(float("nan"))), "parameter.* holds NaN or infinity"),
    "moment": (put("optimizer.exp_avg.", lambda t: t[:1].clone()), "optimizer.exp_avg.* needed"),
    "square": (put("optimizer.exp_avg_sq.", lambda t: -1 - t), "holds squares below 0"),
    "count": (put("optimizer.step.", lambda t: t - 9), "is no count of steps"),
    "count in 8 bits": (put("optimizer.step.", lambda t: t.to(torch.float8_e5m2)), "is no count of steps"),
    "no count": (put("optimizer.step.", lambda t: t * float("nan")), "is no count of steps"),
    "part": (drop("optimizer.exp_avg."), "only a part of the optimizer's state is there"),
    "none": (lambda state, tensors: [tensors.pop(name) for name in [*tensors] if name.startswith("optimizer.")],
             "the optimizer's state is not there"),
    "random": (drop("random.cpu"), "random.cpu.0 is not there"),
    "dice": (put("random.cpu", lambda t: torch.full_like(t, 7)), "random.cpu.0 is no state of a random generator"),
    "dice size": (put("random.cpu", lambda t: t[:9].clone()), "random.cpu.0 is no state of a random generator"),
    "stray": (lambda state, tensors: tensors.update(stray=torch.ones(2)), "unexpected stray"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_checkpoint_that_is_not_one_is_refused(kind, checkpoint, folder, tmp_path):  # noqa: F811
    change, message = BROKEN[kind]
    path = tmp_path / "checkpoint-4"
    shutil.copytree(checkpoint, path)
    state_file, file = path / "training_state.json", path / "training_state.safetensors"
    state, tensors = json.loads(state_file.read_text()), load(file.read_bytes())
    change(state, tensors)
    state_file.write_text(json.dumps(state))
    save_file(tensors, file)
    with pytest.raises(ValueError, match=message):
        train(options(folder, tmp_path / "out", num_frozen_tokens=1, gate=True, resume_from_checkpoint=path))
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_a_checkpoints_pickles_are_not_opened(checkpoint, folder, tmp_path):  # noqa: F811
    for name in ("training_state.safetensors", "optimizer.pt", "rng_state.pth", "training_state.bin"):
        path = tmp_path / name.replace(".", "-") / "checkpoint-4"
        shutil.copytree(checkpoint, path)
        (path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        given = options(folder, tmp_path / "out", num_frozen_tokens=1, gate=True, resume_from_checkpoint=path)
        if name.endswith(".safetensors"):
            with pytest.raises(ValueError, match=r"training_state.safetensors is broken"):
                train(given)
        else:
            train(given)
    assert not (tmp_path / "sprung").exists()
    assert Path(given.output_dir, "adapter_model.safetensors").exists()


def test_a_scale_that_nothing_needs_is_left_alone(checkpoint, folder, tmp_path):  # noqa: F811
    """As where fp16 was written on a GPU, and a run without any scaler goes on."""
    shutil.copytree(checkpoint, tmp_path / "checkpoint-4")
    file = tmp_path / "checkpoint-4" / "training_state.json"
    scaler = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 0}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scaler": scaler}))
    given = {"save_steps": 4, "num_frozen_tokens": 1, "gate": True, "resume_from_checkpoint": "last"}
    assert train(options(folder, tmp_path, **given)).progress.step == 8
