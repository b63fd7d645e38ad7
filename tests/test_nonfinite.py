"""Steps whose loss or gradient is not finite: named, skipped or repeated, and never in the prefix."""

import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import prefix_peft
from drills import runs
from prefix_peft.__main__ import main
from prefix_peft.commands.arguments import RunArguments
from prefix_peft.data.batches import EncodedPairs
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.training.checkpoints import Progress
from prefix_peft.training.nonfinite import BadStep
from prefix_peft.training.run import Run

SHORT = {"max_steps": 8, "save_steps": 1, "validation_file": None, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def folder():
    with runs.playground() as path:
        yield path


def infinite_gradient(model, loss):
    """The same loss; its gradient is not a number."""
    parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    return loss + (parameter.sum() * 0).abs().sqrt()


FAULTS = {
    "nan": lambda model, loss: loss * float("nan"),
    "inf": lambda model, loss: loss * float("inf"),
    "gradient": infinite_gradient,
}


def spoil(monkeypatch, fault, *calls):
    """Let the training passes of these numbers, from 1, go wrong; those without a gradient are not counted."""
    number = 0

    def loss_of(model, batch, is_encoder_decoder):
        nonlocal number
        number += torch.is_grad_enabled()
        loss, count = target_loss(model, batch, is_encoder_decoder)
        return (FAULTS[fault](model, loss) if number in calls else loss), count

    monkeypatch.setattr("prefix_peft.training.train.target_loss", loss_of)


def state(output, step):
    tensors = load_file(output / f"checkpoint-{step}" / "training_state.safetensors")
    return {key: tensor.tolist() for key, tensor in tensors.items() if not key.startswith("random")}


def texts(folder, numbers):
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [json.loads(lines[number])["source"] for number in numbers]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_stops_before_a_bad_step_and_says_all(fault, folder, tmp_path, monkeypatch, capsys):
    assert main(runs.command(folder, tmp_path / "whole", **SHORT)) == 0
    output, command = tmp_path / "bad", runs.command(folder, tmp_path / "bad", **SHORT)
    spoil(monkeypatch, fault, 5)
    assert main(command) == 2
    message = capsys.readouterr().err
    what = "the gradient's norm is nan" if fault == "gradient" else f"the loss is {fault}"
    kept = json.loads((output / "nonfinite-step-5.json").read_text())
    numbers = [row["pair"] for row in kept["pairs"]]
    assert f"{what} at step 5, on the training pairs {numbers[0]}, {numbers[1]} (the first is 0); lower" in message
    assert f"The last good checkpoint is {output / 'checkpoint-4'}: --resume" in message
    assert [row["text"].startswith(text) for row, text in zip(kept["pairs"], texts(folder, numbers), strict=True)]
    assert not (output / "checkpoint-5").exists() and "Traceback" not in message
    monkeypatch.setattr("prefix_peft.training.train.target_loss", target_loss)
    assert main([*command, "--resume-from-checkpoint"]) == 0
    assert runs.differences(runs.what_is_left(output, 8), runs.what_is_left(tmp_path / "whole", 8)) == []


def test_only_the_pair_at_fault_is_named(folder, tmp_path, monkeypatch, capsys):
    (bad,) = texts(folder, [17])

    def loss_of(model, batch, is_encoder_decoder):
        loss, count = target_loss(model, batch, is_encoder_decoder)
        first = torch.tensor([int(word[1:]) for word in bad.split()])
        found = any(torch.equal(row[: len(first)], first) for row in batch["input_ids"])
        return loss * (float("nan") if found else 1), count

    monkeypatch.setattr("prefix_peft.training.train.target_loss", loss_of)
    assert main(runs.command(folder, tmp_path, **SHORT | {"max_steps": 22, "per_device_train_batch_size": 8})) == 2
    assert "on the training pairs 17 (the first is 0)" in capsys.readouterr().err
    (file,) = tmp_path.glob("nonfinite-step-*.json")
    rows = json.loads(file.read_text())["pairs"]
    assert len(rows) == 8 and [row["pair"] for row in rows if row["suspect"]] == [17]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_skipped_step_changes_nothing_but_the_count(fault, folder, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, fault, 3, 5, 6)
    assert main(runs.command(folder, tmp_path, **SHORT, skip_nonfinite_steps=2)) == 0
    said = capsys.readouterr().out
    assert all(f"at step {step}, " in said for step in (3, 5, 6)) and said.count("so it is skipped") == 3
    assert state(tmp_path, 3) == state(tmp_path, 2)
    assert state(tmp_path, 6) == state(tmp_path, 4) != state(tmp_path, 7)
    log = json.loads((tmp_path / "training_log.json").read_text())["log"]
    assert [entry["step"] for entry in log if "skipped" in entry] == [3, 5, 6]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 4, 7, 8]


def test_the_first_step_can_be_skipped(folder, tmp_path, monkeypatch):
    spoil(monkeypatch, "nan", 1)
    assert main(runs.command(folder, tmp_path, **SHORT, skip_nonfinite_steps=1)) == 0


def test_one_more_than_may_be_skipped_stops_the_run_also_when_it_is_resumed(folder, tmp_path, monkeypatch, capsys):
    command = runs.command(folder, tmp_path, **SHORT, skip_nonfinite_steps=2)
    spoil(monkeypatch, "nan", 4, 5, 6)
    assert main(command) == 2
    assert "at step 6, " in capsys.readouterr().err
    spoil(monkeypatch, "nan", 1)  # which is step 6 again
    assert main([*command, "--resume-from-checkpoint"]) == 2
    assert "at step 6, " in capsys.readouterr().err


class Scaled(Accelerator):
    """As with fp16, which Accelerate allows on a GPU only: gradients are scaled, but not rounded."""

    def __init__(self, scale):
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)

    def unscale_gradients(self, optimizer=None):
        self.scaler.unscale_(self._optimizers[-1].optimizer)


class Overflow(torch.autograd.Function):
    """The largest number of float16 is 65,504; above it there is infinity."""

    @staticmethod
    def forward(ctx, loss, most):
        ctx.most = most
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(gradient.abs() > ctx.most, torch.inf, gradient), None


def a_run(accelerator, output, most=torch.inf, **options):
    def loss_of(model, batch, is_encoder_decoder):
        loss, count = target_loss(model, batch, is_encoder_decoder)
        return Overflow.apply(loss, most), count

    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, runs.WORDS, (9,), generator=generator).tolist() for _ in range(21)]
    pairs = EncodedPairs([{"input_ids": row, "labels": [-100] * 4 + row[4:]} for row in rows], 0)
    arguments = RunArguments(
        str(output), learning_rate=0.1, max_steps=12, per_device_train_batch_size=2, logging_steps=1, **options
    )
    torch.manual_seed(0)
    model = prefix_peft.wrap(runs.base_model(), 3)
    return Run(arguments, accelerator, model, runs.tokenizer(), pairs, None, loss_of)


def finished(run):
    run.finish()
    return {name: p.tolist() for name, p in run.plain.named_parameters() if p.requires_grad}, run.progress.log


def test_an_overflow_of_fp16_loses_no_step(tmp_path):
    """Powers of two scale exactly, so the run with overflows is the run without a scale, bit for bit."""
    overflowing = a_run(accelerator := Scaled(2.0**24), tmp_path, most=65504.0)
    found = finished(overflowing)
    assert accelerator.scaler.get_scale() < 2.0**21, "it did overflow"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert found == finished(a_run(Accelerator(), tmp_path))


def test_the_scale_is_part_of_a_checkpoint(tmp_path):
    whole = a_run(first := Scaled(2.0**24), tmp_path, most=65504.0, save_steps=5)
    found = finished(whole)
    AcceleratorState._reset_state(reset_partial_state=True)
    checkpoint = str(tmp_path / "checkpoint-5")
    again = a_run(second := Scaled(2.0**24), tmp_path, most=65504.0, resume_from_checkpoint=checkpoint)
    assert second.scaler.get_scale() < 2.0**24
    assert finished(again) == found and second.scaler.state_dict() == first.scaler.state_dict()


def test_a_gradient_that_no_scale_helps_is_divergence(tmp_path):
    run = a_run(accelerator := Scaled(2.0**10), tmp_path, most=-1.0)
    with pytest.raises(FloatingPointError, match=r"the gradient's norm is (inf|nan) at step 1, on the training pairs"):
        run.finish()
    assert accelerator.scaler.get_scale() <= 1


@pytest.mark.parametrize("option", ["skip_nonfinite_steps", "save_total_limit"])
def test_counts_that_cannot_be_are_refused(option, folder, tmp_path, capsys):
    assert main(runs.command(folder, tmp_path, **{option: -1})) == 2
    assert f"--{option.replace('_', '-')} must be from" in capsys.readouterr().err


def test_a_step_that_was_taken_all_the_same_is_never_skipped(tmp_path):
    bad = BadStep(3, 1.0, float("nan"), [0], [], taken=True)
    with pytest.raises(FloatingPointError, match="the prefix is spoilt"):
        bad.skip(RunArguments(output_dir=str(tmp_path), skip_nonfinite_steps=5), Progress(), "")
