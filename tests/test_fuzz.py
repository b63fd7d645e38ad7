"""Mutated files and command lines: taken and right, or refused in words; and a judge that sees where they are not."""

import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from drills import fuzz
from drills.hostile import tensors
from drills.hostile.dice import Dice, from_bytes, seeded
from drills.hostile.judge import judge
from drills.hostile.subject import Look


@pytest.fixture(scope="module", params=fuzz.QUICK)
def target(request, tmp_path_factory):
    with fuzz.quiet():
        yield fuzz.make(request.param, tmp_path_factory.mktemp("target"))


@settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(data=st.data())
def test_whatever_a_file_holds(target, data):
    dice = Dice(lambda n: data.draw(st.integers(0, n - 1)))
    with fuzz.quiet():
        assert not judge(target, [("hypothesis", dice)]).faults


def test_many_of_each_are_taken_and_many_refused(target):
    with fuzz.quiet():
        tally = judge(target, ((f"seed {seed}", seeded(seed)) for seed in range(1000, 1120)))
    assert tally.faults == [] and tally.held == 120
    assert tally.accepted > 5 and tally.refused > 30


class Wrong:
    """A target that does as it is told."""

    def __init__(self, take, changed=""):
        self.take, self.said = take, changed

    def case(self, dice):
        return dice.below(3)

    def changed(self, closely):
        return self.said


def fail(error):
    def take(case):
        raise error

    return take


def dawdle(case):
    start = time.process_time()
    while time.process_time() < start + 0.1:
        pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Wrong(fail(AssertionError("P is another"))), "seed 7: taken, but P is another; given"),
        (Wrong(fail(RuntimeError("boom"))), "RuntimeError: boom"),
        (Wrong(fail(RecursionError("deep"))), "RecursionError: deep"),
        (Wrong(fail(SystemExit(3))), "SystemExit: 3"),
        (Wrong(fail(ValueError("no")), "a hook differs"), "refused, but a hook differs"),
        (Wrong(lambda case: None, "a number differs"), "taken and taken away, but a number differs"),
        (Wrong(dawdle), r"took 0\.[1-9] s of the processor"),
    ],
)
def test_the_judge_sees_what_does_not_hold(wrong, message, monkeypatch):
    monkeypatch.setattr("drills.hostile.judge.MOST_SECONDS", 0.05)
    tally = judge(wrong, [("seed 7", seeded(7))])
    assert (tally.tried, tally.held) == (1, 0)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(tally.faults[0])


def test_a_look_sees_every_change():
    changes = {
        "numbers": lambda model: model.lm_head.weight.data[3, 4].add_(1e-3),
        "a flag": lambda model: model.lm_head.weight.requires_grad_(False),
        "a mode": lambda model: model.model.train(),
        "a hook": lambda model: model.model.register_forward_pre_hook(lambda *_: None),
        "a module": lambda model: model.model.add_module("more", torch.nn.Identity()),
        "an adapter": lambda model: setattr(model, "peft_config", {"new": None}),
    }
    for change in changes.values():
        model = tiny.build("llama")
        look = Look(model)
        assert look.changed(closely=True) == ""
        change(model)
        assert look.changed(closely=False)


def test_the_reader_of_the_drill_reads_what_was_written():
    header = {
        "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "I64", "shape": [1, 1], "data_offsets": [4, 12]},
    }
    data = torch.tensor([1.5, -2]).bfloat16().view(torch.uint8).numpy().tobytes() + (7).to_bytes(8, "little")
    read = tensors.read(tensors.write(header, data))
    assert read["a"].tolist() == [1.5, -2] and read["b"].tolist() == [[7]]


def test_dice_of_bytes_are_plain_at_their_end():
    dice = from_bytes(b"\x00\x05\x01\x00")
    assert [dice.below(4), dice.below(1000), dice.below(9), dice.pick("abc")] == [1, 256, 0, "a"]
