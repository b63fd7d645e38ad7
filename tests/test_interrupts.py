"""SIGTERM and Ctrl-C: a checkpoint first, then the status that a shell expects; and how a run is started again."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drills import runs
from prefix_peft.__main__ import main
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.training import results
from prefix_peft.training.interrupts import Interrupts

SHORT = {"max_steps": 6, "save_steps": 0, "validation_file": None}


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C is obeyed here even where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def folder():
    with runs.playground() as path:
        yield path


def in_training_call(monkeypatch, number, act):
    """Let ``act`` happen within the forward pass of this number, from 1; each step of these runs has two."""
    calls = iter(range(1, 10**6))

    def loss_of(*given):
        if next(calls) == number:
            act()
        return target_loss(*given)

    monkeypatch.setattr("prefix_peft.training.train.target_loss", loss_of)


def outcome(output):
    log = json.loads((output / "training_log.json").read_text())
    return {key: tensor.tolist() for key, tensor in load_file(output / "adapter_model.safetensors").items()}, log["log"]


def here(*numbers):
    return lambda: [os.kill(os.getpid(), number) for number in numbers]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_before_it_stops(number, folder, tmp_path, monkeypatch, capfd):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert main(runs.command(folder, tmp_path / "whole", **SHORT)) == 0
    command = runs.command(folder, tmp_path / "stopped", **SHORT)
    in_training_call(monkeypatch, 7, here(number))  # the first pass of step 4
    assert main(command) == 128 + number
    checkpoint = tmp_path / "stopped" / "checkpoint-4"
    message = capfd.readouterr().err
    assert f"{number.name}: stopping behind this step" in message and "Traceback" not in message
    assert f"stopped by {number.name} at step 4; --resume-from-checkpoint goes on from {checkpoint}" in message
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoint-4"]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert main([*command, "--resume-from-checkpoint"]) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_a_second_ctrl_c_stops_at_once(folder, tmp_path, monkeypatch, capfd):
    in_training_call(monkeypatch, 7, here(signal.SIGINT, signal.SIGINT))
    assert main(runs.command(folder, tmp_path, **SHORT)) == 130
    assert "prefix-peft train: stopped." in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_a_signal_in_the_last_validation_loses_nothing(folder, tmp_path, monkeypatch):
    options = SHORT | {"validation_file": folder / "validation.jsonl", "eval_steps": 100}
    assert main(runs.command(folder, tmp_path / "whole", **options)) == 0
    command = runs.command(folder, tmp_path / "stopped", **options)
    in_training_call(monkeypatch, 1 + 12 + 1, here(signal.SIGTERM))  # behind the first validation and six steps
    assert main(command) == 143
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoint-6"]
    assert main([*command, "--resume-from-checkpoint"]) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_a_signal_while_the_results_are_written_lets_them_be_written(folder, tmp_path, monkeypatch):
    write = results.write_card
    monkeypatch.setattr(results, "write_card", lambda *given: (here(signal.SIGTERM)(), write(*given)))
    assert main(runs.command(folder, tmp_path, **SHORT)) == 0
    assert (tmp_path / "training_log.json").is_file() and (tmp_path / "README.md").is_file()


def test_a_second_sigterm_does_not_interrupt_the_saving(folder, tmp_path, monkeypatch):
    in_training_call(monkeypatch, 7, here(signal.SIGTERM, signal.SIGTERM))
    assert main(runs.command(folder, tmp_path, **SHORT)) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_handles_no_signals():
    entered = []

    def work():
        with Interrupts() as interrupts:
            entered.append(interrupts.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [0]


def test_the_last_of_no_checkpoints_is_the_beginning(folder, tmp_path, capsys):
    assert main(runs.command(folder, tmp_path, resume_from_checkpoint="last", **SHORT)) == 0
    assert f"{tmp_path} holds no checkpoint yet, so the run starts anew." in capsys.readouterr().out
    assert main(runs.command(folder, tmp_path, resume_from_checkpoint=tmp_path / "checkpoint-3", **SHORT)) == 2
    assert "checkpoint-3 is no training checkpoint" in capsys.readouterr().err
