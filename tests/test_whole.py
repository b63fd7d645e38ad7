"""Files and checkpoints that are whole or absent, whatever happens while they are written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drills import runs
from prefix_peft.__main__ import main
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.whole import remove, sweep, whole_directory, whole_files, write_text

SHORT = {"max_steps": 8, "save_steps": 2, "validation_file": None, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def folder():
    with runs.playground() as path:
        yield path


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def fill(draft, text):
    (draft / "a").write_text(text)
    (draft / "below").mkdir()
    (draft / "below" / "b").write_text(text)


@pytest.fixture
def calls(monkeypatch):
    """What is forced onto the disk and what is renamed, in order, by name."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which file a descriptor is of is read in /proc")
    seen, sync, rename, replace = [], os.fsync, os.rename, os.replace

    def note_sync(descriptor):
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def note(move):
        def noted(a, b, **more):
            seen.append((Path(a).name, Path(b).name))
            move(a, b, **more)

        return noted

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note(rename))
    monkeypatch.setattr(os, "replace", note(replace))
    return seen


def test_all_is_on_the_disk_before_it_gets_its_name(calls, tmp_path):
    draft = f".it.{os.getpid()}.draft"
    with whole_directory(tmp_path / "it") as directory:
        fill(directory, "new")
    assert set(calls[:4]) == {"a", "b", "below", draft} and calls[4:] == [(draft, "it"), tmp_path.name]
    calls.clear()
    write_text(tmp_path / "text", "text")
    assert calls == [f".text.{os.getpid()}.draft", (f".text.{os.getpid()}.draft", "text"), tmp_path.name]


def test_a_directory_takes_the_place_of_another(tmp_path):
    for text in ("old", "new"):
        with whole_directory(tmp_path / "it") as draft:
            fill(draft, text)
    assert entries(tmp_path) == ["it"] and (tmp_path / "it" / "below" / "b").read_text() == "new"


@pytest.mark.parametrize("whole", [lambda path: whole_directory(path / "it"), whole_files], ids=["directory", "files"])
def test_what_fails_leaves_what_was_there(whole, tmp_path):
    fill(tmp_path, "old")
    before = entries(tmp_path)
    with pytest.raises(OSError, match="No space left"), whole(tmp_path) as draft:
        fill(draft, "new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert entries(tmp_path) == before and (tmp_path / "a").read_text() == "old"


def test_files_go_where_they_belong_and_others_stay(tmp_path):
    fill(tmp_path, "old")
    with whole_files(tmp_path) as draft:
        (draft / "a").write_text("new")
    assert entries(tmp_path) == ["a", "below"] and (tmp_path / "a").read_text() == "new"


def test_leftovers_of_dead_processes_are_swept(tmp_path):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    dead, alive = process.pid, os.getppid()
    for name in (f".checkpoint-1.{dead}.draft", f".checkpoint-2.{os.getpid()}.draft", f".checkpoint-3.{dead}.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in (f".checkpoint-4.{alive}.draft", f".checkpoint-5.{dead}.old", "checkpoint-5", ".mine", f".mine.{dead}"):
        (tmp_path / name).mkdir()
    (tmp_path / f".training_log.json.{dead}.draft").touch()
    sweep(tmp_path)
    assert entries(tmp_path) == sorted(
        [f".checkpoint-4.{alive}.draft", "checkpoint-3", "checkpoint-5", ".mine", f".mine.{dead}"]
    )
    assert (tmp_path / "checkpoint-3" / "file").exists(), "moved aside for a new one that never came"


def test_a_directory_is_never_half_removed(tmp_path, monkeypatch):
    (it := tmp_path / "it").mkdir()
    fill(it, "old")
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: (path / "a").unlink())  # killed after the first file
    remove(it)
    assert entries(tmp_path) == [f".it.{os.getpid()}.draft"]


def test_only_the_last_checkpoints_stay_and_none_of_a_later_step_goes(folder, tmp_path):
    command = runs.command(folder, tmp_path, **SHORT, save_total_limit=2)
    (tmp_path / "checkpoint-100").mkdir()
    assert main(command) == 0
    assert [name for name in entries(tmp_path) if "checkpoint" in name] == [
        "checkpoint-100", "checkpoint-6", "checkpoint-8"
    ]  # fmt: skip


def test_an_old_checkpoint_goes_after_the_new_one_is_there(folder, tmp_path, monkeypatch):
    present = []
    monkeypatch.setattr(
        "prefix_peft.training.checkpoints.remove", lambda path: present.append(entries(path.parent)[-1])
    )
    assert main(runs.command(folder, tmp_path, **SHORT, save_total_limit=1)) == 0
    assert present == ["checkpoint-4", "checkpoint-6", "checkpoint-6", "checkpoint-8", "checkpoint-8", "checkpoint-8"]


def during(monkeypatch, call, act):
    """Let ``act`` happen in the training pass of this number, from 1."""
    numbers = iter(range(1, 10**6))

    def loss_of(*given):
        if next(numbers) == call:
            act()
        return target_loss(*given)

    monkeypatch.setattr("prefix_peft.training.train.target_loss", loss_of)


def test_a_full_disk_stops_the_run_and_names_what_is_left(folder, tmp_path, monkeypatch, capsys):
    assert main(runs.command(folder, tmp_path / "whole", **SHORT)) == 0
    output, sync = tmp_path / "full", os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    during(monkeypatch, 5, lambda: monkeypatch.setattr(os, "fsync", full))
    assert main(runs.command(folder, output, **SHORT)) == 2
    message = capsys.readouterr().err
    assert f"{output / 'checkpoint-6'} cannot be written: [Errno 28] No space left on device" in message
    assert f"The last good checkpoint is {output / 'checkpoint-4'}: --resume" in message
    assert entries(output) == ["checkpoint-2", "checkpoint-4"] and "Traceback" not in message
    monkeypatch.setattr(os, "fsync", sync)
    assert main(runs.command(folder, output, **SHORT, resume_from_checkpoint="last")) == 0
    assert runs.differences(runs.what_is_left(output, 8), runs.what_is_left(tmp_path / "whole", 8)) == []


def test_a_directory_that_is_gone_is_not_made_anew(folder, tmp_path, monkeypatch, capsys):
    output, away = tmp_path / "output", tmp_path / "away"
    during(monkeypatch, 5, lambda: output.rename(away))
    assert main(runs.command(folder, output, **SHORT)) == 2
    message = capsys.readouterr().err
    assert f"{output / 'checkpoint-6'} cannot be written: [Errno 2] No such file or directory" in message
    assert f"The last good checkpoint is {output / 'checkpoint-4'}" in message and "comes back" in message
    assert not output.exists() and entries(away) == ["checkpoint-2", "checkpoint-4"]


def test_another_directory_of_the_same_name_is_not_written_to(folder, tmp_path, monkeypatch, capsys):
    """As where a disk was unmounted: what is written there is hidden when it comes back."""
    output = tmp_path / "output"
    during(monkeypatch, 5, lambda: (output.rename(tmp_path / "away"), output.mkdir()))
    assert main(runs.command(folder, output, **SHORT)) == 2
    assert "it is another directory than when the run began" in capsys.readouterr().err and not entries(output)


def test_results_that_cannot_be_written_leave_the_former_ones(folder, tmp_path, monkeypatch, capsys):
    command = runs.command(folder, tmp_path, **SHORT | {"save_steps": 0})
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("prefix_peft.training.results.write_card", fail)
    assert main([*command, "--seed", "3"]) == 2
    assert f"{tmp_path} cannot be written: [Errno 30] Read-only" in (message := capsys.readouterr().err)
    assert "There is no checkpoint to go back to" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_log_of_a_run_does_not_say_where_it_was(folder, tmp_path):
    assert main(runs.command(folder, tmp_path, **SHORT)) == 0
    assert json.loads((tmp_path / "training_log.json").read_text()).keys() == {"step", "seconds", "log"}
