"""What a run reads besides releases: training checkpoints, prompt files, data files and command lines."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import prefix_peft
from prefix_peft import __main__ as command_line
from prefix_peft.commands.arguments import TrainArguments
from prefix_peft.commands.models import recall_separator
from prefix_peft.data.tasks import read_jsonl
from prefix_peft.training.checkpoints import Progress, load_checkpoint, save_checkpoint

from . import tensors, texts
from .dice import Dice
from .subject import IDS, Look, P, base_model, content, fill, parsed

STATE, STATE_TENSORS = "training_state.json", "training_state.safetensors"
LIKELY = {
    "step": [0, 1, 5, -1, 10**400, 1.0, True], "seconds": [0, 0.5, -1, float("nan"), "1"], "arguments": [{}, 5, None],
    "log": [[], [5], [{"step": 1, "loss": 2.5}], [{"loss": 1}], {}], "scaler": [None, 5], "spell": [1],
}  # fmt: skip
# what the commands do not run without, but for the model
NEEDED = {
    "train": ["--train-file", "t", "--output-dir", "o"], "distill": ["--document-file", "d", "--output-dir", "o"],
    "evaluate": ["--adapter", "a", "--data-file", "d"], "generate": ["--adapter", "a", "--prompt", "p"],
    "score": ["--predictions", "p", "--references", "r"], "convert": ["old", "new"],
    "push": ["a", "r"], "pull": ["r", "d"],
}  # fmt: skip


class States:
    """Training checkpoints: what they restore is what they hold, number by number, or nothing is restored."""

    def __init__(self, directory: Path) -> None:
        torch.manual_seed(5)
        self.model = prefix_peft.wrap(base_model(), P, gate=True, num_frozen_tokens=1)
        fill(self.model, "prefix_kv_encoder")
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values())
        self.model(IDS, labels=IDS).loss.backward()
        self.optimizer.step()
        self.arguments = TrainArguments(model="m", train_file="f", output_dir=str(directory))
        progress = Progress(1, 2.5, [{"step": 1, "loss": 3.5}])
        self.directory = save_checkpoint(self.model, self.optimizer, progress, self.arguments)
        self.whole = content(self.directory, STATE, STATE_TENSORS)
        self.model.eval()
        self.look, self.rest = Look(self.model), self._rest()

    def case(self, dice: Dice) -> tuple[bytes, bytes]:
        """A change in one of the two files."""
        state, numbers = self.whole
        if dice.once_in(2):
            return state, tensors.changed(dice, numbers)
        return texts.as_file(dice, texts.changed(dice, parsed(state), LIKELY)), numbers

    def take(self, case: tuple[bytes, bytes]) -> None:
        """Resume from it."""
        for name, data in zip((STATE, STATE_TENSORS), case, strict=True):
            (self.directory / name).write_bytes(data)
        progress = load_checkpoint(self.directory, self.model, self.optimizer, self.arguments)
        try:
            said, found = parsed(case[0]), tensors.read(case[1])
            for key in ("step", "seconds", "log"):
                assert repr(getattr(progress, key)) == repr(said[key]), f"{key} is {getattr(progress, key)!r}"
            for name, tensor in self.trained.items():
                assert np.array_equal(tensor.detach().numpy(), found[f"parameter.{name}"]), f"{name} is another"
                for kind, value in self.optimizer.state[tensor].items():
                    held = np.asarray(value).reshape(-1)
                    assert np.array_equal(held, found[f"optimizer.{kind}.{name}"].reshape(-1)), f"{kind} of {name}"
        finally:
            for name, data in zip((STATE, STATE_TENSORS), self.whole, strict=True):
                (self.directory / name).write_bytes(data)
            load_checkpoint(self.directory, self.model, self.optimizer, self.arguments)

    def changed(self, closely: bool) -> str:
        """What the last case left behind."""
        now = self._rest()
        same = now.keys() == self.rest.keys() and all(torch.equal(now[key], self.rest[key]) for key in now)
        return self.look.changed(closely) or ("" if same else "the optimizer or the random state differs")

    def _rest(self) -> dict[str, torch.Tensor]:
        moments = {
            f"{name}.{kind}": torch.as_tensor(value).clone()
            for name, tensor in self.trained.items()
            for kind, value in self.optimizer.state[tensor].items()
        }
        return moments | {"random": torch.get_rng_state()}


class Prompts:
    """``prompt.json``: the separator that it holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def case(self, dice: Dice) -> bytes:
        """A change of it."""
        return texts.as_file(dice, texts.changed(dice, {"separator": " =>"}, {"separator": [None, "", 5, ["x"]]}))

    def take(self, case: bytes) -> None:
        """Read it."""
        (self.directory / "prompt.json").write_bytes(case)
        separator = recall_separator(str(self.directory), None)
        assert separator == parsed(case).get("separator"), f"read {separator!r}"

    def changed(self, closely: bool) -> str:
        """Nothing can be."""
        return ""


class Data:
    """Data files: every record as ``json.loads`` says, or the number of the first line that is none."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "data.jsonl"

    def case(self, dice: Dice) -> bytes:
        """A file."""
        return texts.lines(dice)

    def take(self, case: bytes) -> None:
        """Read it."""
        self.path.write_bytes(case)
        first_bad, expected = _records(case)
        try:
            records = read_jsonl(self.path)
        except ValueError as error:
            assert f", line {first_bad}:" in str(error) or not (first_bad or expected), f"line {first_bad}: {error}"
            raise
        assert [(record.source, record.references) for record in records] == expected, f"read {records}"
        assert first_bad == 0, f"line {first_bad} was taken"

    def changed(self, closely: bool) -> str:
        """Nothing can be."""
        return ""


def _records(data: bytes) -> tuple[int, list[tuple[str, tuple[str, ...]]]]:
    """The first line that is no record, or 0, and the records."""
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8-sig")
            if not text.strip():
                continue
            record = json.loads(text)
            references = record["references"] if "references" in record else [record["target"]]
            strings = [record["source"], *references]
            good = isinstance(references, list) and references and not ("target" in record and "references" in record)
            if not good or not all(isinstance(s, str) and s.strip() and s.encode() for s in strings):
                return number, found
        except (ValueError, RecursionError, KeyError, TypeError):
            return number, found
        found.append((record["source"], tuple(references)))
    return 0, found


class CommandLines:
    """Command lines: what is run has the values that were given; what is not has status 2, and says why."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ran: list[Any] = []
        self.commands = {name: (kind, self.ran.append) for name, (kind, _) in command_line.COMMANDS.items()}

    def case(self, dice: Dice) -> list[str]:
        """Often a command with options that it has."""
        name = texts.word(dice) if dice.once_in(12) else dice.pick(sorted(self.commands))
        argv = [name]
        if name in self.commands:
            options = [f"--{field.name}" for field in fields(self.commands[name][0])]
            argv += ["--model", "m"] * (not dice.once_in(8))
            argv += NEEDED.get(name, []) * (not dice.once_in(4))
            for _ in range(dice.below(4)):
                option = texts.word(dice) if dice.once_in(8) else dice.pick(options).replace("_", dice.pick("-_"))
                given = [str(dice.pick([*texts.NUMBERS, True])), texts.word(dice), str(self.directory), ""]
                argv += [option, dice.pick(given)][: 2 - dice.once_in(6)]
        return argv

    def take(self, case: list[str]) -> None:
        """Run it, up to where the work would begin."""
        self.ran.clear()
        said = io.StringIO()
        try:
            with patch.object(command_line, "COMMANDS", self.commands), redirect_stderr(said), redirect_stdout(said):
                status = command_line.main(case)
        except SystemExit as exit:  # argparse's way
            status = exit.code
        assert status in (0, 2), f"status {status}"
        assert said.getvalue() or status == 0, "refused without a word"
        if status == 2:
            raise ValueError(said.getvalue())
        closed = [*case[1:], "--"]  # behind a last option without a value, which counts as well
        named = [(name[2:].replace("-", "_"), value) for name, value in pairwise(closed) if name.startswith("--")]
        given = dict(named)
        values = asdict(self.ran[0]) if self.ran else {}
        other = {name: given[name] for name in given.keys() & values.keys() if not _same(values[name], given[name])}
        assert not other, f"{other} became {values}"

    def changed(self, closely: bool) -> str:
        """Nothing can be."""
        return ""


def _same(value: Any, given: str) -> bool:
    if given.startswith("--") or isinstance(value, bool):  # a flag alone
        return True
    if isinstance(value, list):
        return given in value
    return value == given if isinstance(value, str) else repr(value) == repr(type(value)(given))
