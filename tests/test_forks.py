"""A child of a drill's can be waited for, whatever became of those before it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drills import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forks")
KILLED_WITH_THE_LOCK = """
import os, signal, sys
from pathlib import Path
from tqdm import tqdm
from drills import forks

def show_a_bar():
    tqdm([]).close()

def die_with_its_lock():
    with tqdm.get_lock():
        os.kill(os.getpid(), signal.SIGKILL)

forks.LONGEST, said = 5, Path(sys.argv[1])
forks.prepare()
show_a_bar()
print([forks.finish(forks.fork(work, said)) for work in (die_with_its_lock, show_a_bar)])
"""


def test_a_child_killed_within_a_progress_bar_leaves_no_lock_to_the_next(tmp_path):
    """In a process of its own, which has not shown a bar yet."""
    command = [sys.executable, "-c", KILLED_WITH_THE_LOCK, str(tmp_path / "said")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(forks.__file__).parents[1], timeout=60)
    assert done.stdout == "[-9, 0]\n", done.stderr


def test_a_process_with_threads_is_not_forked(tmp_path):
    done = threading.Event()
    with_locks = threading.Thread(target=done.wait, name="with locks")
    with_locks.start()
    try:
        with pytest.raises(RuntimeError, match="with locks"):
            forks.fork(lambda: 0, tmp_path / "said")
    finally:
        done.set()
        with_locks.join()


class Asleep:
    """A process that goes on without end."""

    def is_alive(self):
        return True


def test_a_wait_in_vain_says_for_what(monkeypatch):
    monkeypatch.setattr(forks, "LONGEST", 0.01)
    assert forks.wait_for("checkpoint-4", lambda: False, Asleep()) == "waited 0.01 s for checkpoint-4"
    assert forks.wait_for("checkpoint-4", lambda: True, Asleep()) == ""
