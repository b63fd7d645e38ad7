"""``prefix-peft push`` over HTTP: what goes up, what does not, and what is said of it."""

import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from hub_client import CARD, CONFIG, UP, WEIGHTS, last_line, one_line, push
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import close_session

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.commands.models import recall_separator


def test_the_push_command_sends_the_release_and_nothing_else(hub, release, tmp_path, capsys):
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    given = ["--private", "--license", "mit", "--revision", "v1", "--commit-message", "First"]
    assert push(release, *given) == 0
    theirs = hub.repositories["tester/prefix"]
    files = theirs.files("v1")
    assert set(files) == UP and theirs.files() == {} and theirs.private and theirs.messages == ["First"]
    assert {path: path.read_bytes() for path in before} == before, "the directory is as it was"
    assert all(str(tmp_path).encode() not in file for file in files.values())
    assert files[WEIGHTS] == (release / WEIGHTS).read_bytes()
    old, new = json.loads((release / CONFIG).read_bytes()), json.loads(files[CONFIG])
    assert old["trained_with"] == {"tokenizer_name_or_path": old["base_model_name_or_path"]}
    renamed = {"base_model_name_or_path": "openai/gpt2", "trained_with": {"tokenizer_name_or_path": "openai/gpt2"}}
    assert new == old | renamed
    card = ModelCard(files[CARD].decode())
    assert (card.data.base_model, card.data.license, card.data.tags[-1]) == (
        "openai/gpt2", "mit", "base_model:adapter:openai/gpt2",
    )  # fmt: skip
    assert (
        'from_pretrained("tester/prefix", revision="v1")' in card.text and "| base model | `openai/gpt2` |" in card.text
    )
    said = capsys.readouterr().out
    assert said.startswith(f"tester/prefix has it now: {', '.join(sorted(UP))}.\n{hub.url}/tester/prefix/commit/")
    assert "Try it: prefix-peft pull tester/prefix prefix --revision v1" in said

    assert main(["pull", "tester/prefix", str(tmp_path / "back"), "--revision", "v1"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == files
    said = capsys.readouterr().out
    assert "base model      openai/gpt2\n" in said and f"commit          {theirs.branches['v1']}\n" in said
    assert f"Try it: prefix-peft generate --model openai/gpt2 --adapter {tmp_path / 'back'} --prompt" in said


def test_a_pull_request_a_subfolder_and_the_separator(plain_hub, release, capsys):
    assert push(release) == 0
    assert push(release, "--subfolder", "deep/er", "--create-pr") == 0
    theirs = plain_hub.repositories["tester/prefix"]
    assert set(theirs.files()) == UP and f"deep/er/{WEIGHTS}" in theirs.files("refs/pr/1")
    assert f"{plain_hub.url}/tester/prefix/discussions/1" in capsys.readouterr().out
    assert recall_separator("tester/prefix", None) == " =>", "generate writes behind it as training did"
    HfApi().create_repo("bare")
    assert recall_separator("tester/bare", None) is None


LOCAL = {  # what is wrong: what is said, before the Hub is asked for anything
    "local base": "was trained on .*my-gpt2, a directory of this machine.*: --base-model gpt2-medium",
    "base": "--base-model '/nowhere/x' is no name of a repository",
    "foreign": "holds an adapter of another kind .'LORA'.*PEFT's own push_to_hub",
    "nothing": "holds no adapter_config.json; name the directory",
    "weights": "holds no adapter_model.safetensors; save",
    "nan": "holds NaN or infinity",
    "link": "leads out of",
    "token": "needs a token of the Hub, and there is none: log in with `hf auth login`, or set HF_TOKEN",
    "name": "Repo id must use alphanumeric chars",
}


@pytest.mark.parametrize("wrong", LOCAL)
def test_what_cannot_be_pushed_is_said_at_once(wrong, plain_hub, release, capsys, monkeypatch):
    given = {"base": None if wrong == "local base" else "/nowhere/x" if wrong == "base" else "openai/gpt2"}
    if wrong == "foreign":
        (release / CONFIG).write_text('{"peft_type": "LORA"}')
    elif wrong == "nothing":
        (release / CONFIG).unlink()
    elif wrong == "weights":
        (release / WEIGHTS).unlink()
    elif wrong == "nan":
        model = prefix_peft.wrap(tiny.build("gpt2"), 3)
        torch.nn.init.constant_(next(iter(tiny.prefix_parameters(model).values())), float("nan"))
        model.save_pretrained(release)
    elif wrong == "link":
        (release / "learning_curve.png").symlink_to("/etc/hostname")
    elif wrong == "token":
        monkeypatch.delenv("HF_TOKEN")
    elif wrong == "name":
        given["to"] = "tester/my prefix"
    assert push(release, **given) == 2
    said = one_line(capsys, "push")
    assert re.search(LOCAL[wrong], said), said
    assert plain_hub.asked == []


def test_what_the_hub_refuses_is_said_with_what_to_do(plain_hub, release, tmp_path, capsys, monkeypatch):
    assert push(release) == 0
    commits = dict(plain_hub.repositories["tester/prefix"].commits)
    capsys.readouterr()

    def refused(command, *given):
        assert main([command, *map(str, given)]) == 2
        return one_line(capsys, command)

    base, new = ("--base-model", "openai/gpt2"), tmp_path / "new"
    assert "is there already, and public: nothing was pushed" in refused("push", release, "prefix", *base, "--private")
    assert "your token may not write there" in refused("push", release, "other/prefix", *base)
    assert "has no revision 'v2'; choose from ['main']" in refused("pull", "tester/prefix", new, "--revision", "v2")
    assert "tester/none is not at http" in refused("pull", "tester/none", new)
    assert "is there already; name a new directory, or --force" in refused("pull", "tester/prefix", release)
    monkeypatch.setenv("HF_TOKEN", "expired")
    assert "the Hub does not know your token" in refused("push", release, "tester/prefix", *base)
    monkeypatch.delenv("HF_TOKEN")
    plain_hub.repositories["tester/prefix"].private = True
    assert "or it is private and not yours to see" in refused("pull", "tester/prefix", new)
    monkeypatch.setenv("HF_TOKEN", "anything")
    plain_hub.server.shutdown()
    plain_hub.server.server_close()
    close_session()  # a connection that is open would go on
    assert "pulling tester/prefix was cut short" in refused("pull", "tester/prefix", new)
    assert "pushing to tester/prefix was cut short" in refused("push", release, "tester/prefix", *base)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    close_session()
    assert "HF_HUB_OFFLINE forbids it; unset that" in refused("pull", "tester/prefix", new)
    assert not new.exists() and plain_hub.repositories["tester/prefix"].commits == commits


def test_an_upload_that_is_cut_off(hub, release, capsys, monkeypatch):
    assert push(release) == 0
    theirs = hub.repositories["tester/prefix"]
    before = theirs.files()
    tiny.fill(prefix_peft.wrap(tiny.build("gpt2"), 3), seed=8).save_pretrained(release)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    capsys.readouterr()
    hub.cut["put" if hub.uploads == "lfs" else "commit"] = 99
    assert push(release) == 2
    assert "pushing to tester/prefix was cut short: Server disconnected" in last_line(capsys)
    assert theirs.files() == before and len(theirs.commits) == 2
    hub.cut.clear()
    hub.cut["put"] = 1
    assert push(release) == 0
    assert theirs.files()[WEIGHTS] == (release / WEIGHTS).read_bytes() != before[WEIGHTS]


def test_a_card_that_somebody_edited_stays(plain_hub, release, capsys):
    assert push(release) == 0
    theirs = plain_hub.repositories["tester/prefix"]
    edited = theirs.files()[CARD].replace(b"## What it is", b"## What it is, in my words")
    theirs.commit("main", {CARD: edited}, "In the browser")
    assert push(release) == 0
    assert theirs.files()[CARD] == edited
    assert "Note: README.md was edited on the Hub and stays as it is there" in capsys.readouterr().out
    assert push(release, "--replace-card") == 0
    assert b"in my words" not in theirs.files()[CARD]
    home = str(Path.home())
    own = (release / CARD).read_text() + f"\nMy own words, in {home}/secret.\n"
    (release / CARD).write_text(own)
    assert push(release) == 0
    assert theirs.files()[CARD].decode() == own == (release / CARD).read_text()
    said = capsys.readouterr().out
    assert "it has 'path/or/id/of/this/adapter' where 'tester/prefix' belongs" in said
    assert f"names places of this machine: {home}/secret" in said
    prefix_peft.wrap(tiny.build("gpt2"), 3).save_pretrained(release)
    assert (release / CARD).read_text() == own, "nor does saving touch it"
