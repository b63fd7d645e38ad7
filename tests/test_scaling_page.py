"""docs/scaling.md: its commands do what it says, as far as one CPU goes, and its tables are what they print."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser

from prefix_peft.__main__ import main
from prefix_peft.commands.arguments import TrainArguments
from prefix_peft.demo.run import BASE
from prefix_peft.planning.table import size

PAGE = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
PLANS = [command for command in COMMANDS if "--plan" in command]
CONFIGS = dict(re.findall(r"`(\S+\.json)`\n\n```json\n(.*?)```", PAGE, re.S))
LAYERS = {"num_hidden_layers": 1, "n_layer": 1}


def shown(command):
    """The tables that follow a command on the page, up to the next command or section."""
    part = re.split(r"```sh|\n## ", PAGE.partition(command)[2])[0]
    return [line for line in part.splitlines() if line.startswith("| ")]


def names(rows):
    return [row.split("|")[1].strip() for row in rows]


@pytest.mark.parametrize("command", PLANS)
def test_plans(command, tmp_path, monkeypatch, capsys):
    """With a single layer, which is quicker; the weights of all layers are summed here."""
    monkeypatch.chdir(tmp_path)
    name = re.search(r"--model (\S+)", command)[1]
    config = json.loads(CONFIGS[name])
    Path(name).write_text(json.dumps(config | {key: 1 for key in LAYERS if key in config}))
    assert main(shlex.split(command)[1:]) == 0
    assert names(shown(command)) == names(line for line in capsys.readouterr().out.splitlines() if line[:2] == "| ")
    Path(name).write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
    weights = sum(parameter.numel() for parameter in model.parameters()) * (2 if "bfloat16" in command else 4)
    assert shown(command)[1].split("|")[2].strip() == size(weights)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("prefix-peft train")])
def test_training(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"source": "name : Ada", "target": "Ada is here ."}\n' * 8)
    arguments = shlex.split(command.replace("gpt2-medium", str(BASE)))[1:]
    assert main([*arguments, "--max-steps", "1"]) == 0
    assert Path("my-prefix", "adapter_model.safetensors").exists()


@pytest.mark.parametrize("command", [command for command in COMMANDS if "-m prefix_peft" in command])
def test_launches_ask_for_what_there_is(command):
    words = shlex.split(command)
    assert words[words.index("-m") + 2] == "train"
    HfArgumentParser(TrainArguments).parse_args_into_dataclasses(words[words.index("-m") + 3 :])


def test_the_page_is_whole():
    assert len(PLANS) == len(CONFIGS) == 3
    assert all(shown(command) for command in PLANS)
    assert "@@" not in PAGE
