"""``prefix-peft pull`` over HTTP: what anybody may have published is looked at before anything is replaced."""

import json
import re
import shutil

import pytest
import tiny
from hub_client import CONFIG, UP, WEIGHTS, last_line, one_line, push
from huggingface_hub import HfApi, constants
from peft import PeftModel

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.commands.models import recall_separator
from prefix_peft.untrusted import check_inside


def test_a_separator_that_cannot_be_fetched_is_not_guessed(plain_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"tester/prefix was trained with lies on the Hub, .* say --separator"):
        recall_separator("tester/prefix", None)
    assert recall_separator("tester/prefix", " =>") == " =>"


def test_a_download_that_is_cut_off(plain_hub, release, tmp_path, capsys, monkeypatch):
    assert push(release) == 0
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    plain_hub.cut[WEIGHTS] = 1
    assert main(["pull", "tester/prefix", str(tmp_path / "one")]) == 0, "it goes on where it was cut"
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (release / WEIGHTS).read_bytes()
    shutil.rmtree(tmp_path / "cache")
    plain_hub.cut[WEIGHTS] = 99
    assert main(["pull", "tester/prefix", str(tmp_path / "two")]) == 2
    assert "pulling tester/prefix was cut short" in last_line(capsys) and not (tmp_path / "two").exists()
    with pytest.raises(Exception, match="peer closed connection"):
        PeftModel.from_pretrained(tiny.build("gpt2"), "tester/prefix")


def published(hub, files):
    HfApi().create_repo("theirs", exist_ok=True)
    hub.repositories["tester/theirs"].commit("main", files, "theirs")
    for name in set(hub.repositories["tester/theirs"].files()) - set(files):
        del hub.repositories["tester/theirs"].commits[hub.repositories["tester/theirs"].branches["main"]][name]


FOREIGN = {
    "no adapter": (lambda files: files.pop(CONFIG), "holds no adapter"),
    "subfolder": (
        lambda files: files.update({f"deep/{CONFIG}": files.pop(CONFIG)}), r"subfolders \['deep'\]: --subfolder deep"
    ),
    "pickle": (lambda files: files.update({"adapter_model.bin": files.pop(WEIGHTS)}), "would be a pickle"),
    "another kind": (lambda files: files.update({CONFIG: b'{"peft_type": "LORA"}'}), "another kind .'LORA'"),
    "no object": (lambda files: files.update({CONFIG: b"[]"}), "must hold a JSON object"),
    "half a file": (lambda files: files.update({WEIGHTS: files[WEIGHTS][:-8]}), "is no whole safetensors file"),
    "other lengths": (
        lambda files: files.update({CONFIG: files[CONFIG].replace(b'tokens": 3', b'tokens": 4')}),
        "has 3 virtual tokens, its config 4",
    ),
    "no separator": (lambda files: files.update({"prompt.json": b'{"separator": 3}'}), "must be text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_comes_is_looked_at_before_anything_is_replaced(kind, plain_hub, release, tmp_path, capsys):
    files = {name: (release / name).read_bytes() for name in UP}
    hurt, message = FOREIGN[kind]
    hurt(files)
    published(plain_hub, files)
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    assert main(["pull", "tester/theirs", str(release), "--force"]) == 2
    said = one_line(capsys, "pull")
    assert re.search(message, said), said
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before
    if kind == "another kind":
        assert not any(WEIGHTS in asked for asked in plain_hub.asked), "what it holds is not fetched"


def test_pull_replaces_the_prefix_and_keeps_the_rest(plain_hub, release, tmp_path, capsys):
    assert push(release) == 0
    other = tmp_path / "other"
    tiny.fill(prefix_peft.wrap(tiny.build("gpt2"), 3), seed=8).save_pretrained(other)
    (other / "notes.txt").write_text("mine")
    assert main(["pull", "tester/prefix", str(other), "--force"]) == 0
    assert (other / WEIGHTS).read_bytes() == (release / WEIGHTS).read_bytes()
    assert {path.name for path in other.iterdir()} == UP | {"notes.txt"} and (other / "notes.txt").read_text() == "mine"


def test_what_a_stranger_wrote_moves_no_cursor_and_runs_no_command(plain_hub, release, tmp_path, capsys):
    files = {name: (release / name).read_bytes() for name in UP}
    config = json.loads(files[CONFIG]) | {"trained_with": {"init_text": "\x1b[2J"}}
    files[CONFIG] = json.dumps(config | {"base_model_name_or_path": "$(reboot)\x1b[2J"}).encode()
    published(plain_hub, files)
    assert main(["pull", "tester/theirs", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "Try it" not in said and r"'$(reboot)\x1b[2J', no repository of the Hub" in said


def test_the_cache_of_the_hub_is_made_of_links(tmp_path):
    """From a snapshot to its repository's blobs, and from there to those that all repositories share."""
    repository, shared = tmp_path / "models--a--b", tmp_path / "blobs" / "ab" / "abc"
    for file in (shared, repository / "blobs" / "own", repository / "snapshots" / "c" / "x", tmp_path / "token"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (repository / "blobs" / "etag").symlink_to("../../blobs/ab/abc")
    snapshot = repository / "snapshots" / "c"
    for name, target in (("a", "../../blobs/own"), ("b", "../../blobs/etag"), ("secret", "../../../token")):
        (snapshot / name).symlink_to(target)
    assert check_inside(snapshot, snapshot / "a") and check_inside(snapshot, snapshot / "b").resolve() == shared
    with pytest.raises(ValueError, match="leads out of"):
        check_inside(snapshot, snapshot / "secret")
