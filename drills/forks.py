"""Children of this process, which has imported everything already, and the waits for them, each of which has an end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

from tqdm import tqdm

LONGEST = 120  # seconds of a run that takes a few
HUNG = f"none within {LONGEST} s"


def prepare() -> None:
    """Keep this process free of what a child could wait for without end; before anything shows a progress bar."""
    tqdm.monitor_interval = 0  # no thread, which a child would not have, but perhaps the lock that it held
    tqdm.set_lock(threading.RLock())  # its own is shared with all children: one killed while it holds it never lets go


def fork(work: Callable[[], int | None], said: Path, before: Callable[[], None] | None = None) -> ForkProcess:
    """Any work as a process of its own that writes what it says to ``said``; ``before`` is called in it first.

    Raises:
        RuntimeError: there are threads.
    """
    if len(names := [thread.name for thread in threading.enumerate()]) > 1:
        raise RuntimeError(f"a child would wait for locks that these threads held when it was forked: {names}.")
    process = multiprocessing.get_context("fork").Process(target=_work, args=(work, said, before))
    process.start()
    return process


def _work(work: Callable[[], int | None], said: Path, before: Callable[[], None] | None) -> None:
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["ACCELERATE_USE_CPU"] = "true"  # a GPU computes other bits each time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
    if before is not None:
        before()
    sys.exit(work())


def finish(process: ForkProcess) -> int | str:
    """Its exit status, when it is done; `HUNG` of one that had to be killed."""
    process.join(LONGEST)
    if hung := process.is_alive():
        process.kill()
        process.join()
    status = process.exitcode
    process.close()
    assert status is not None
    return HUNG if hung else status


def wait_for(what: str, happened: Callable[[], bool], process: ForkProcess) -> str:
    """Until it has, or the process is no more: ''. What was waited for, where that takes too long."""
    deadline = time.monotonic() + LONGEST
    while process.is_alive() and not happened():
        if time.monotonic() > deadline:
            return f"waited {LONGEST} s for {what}"
        time.sleep(0.0005)
    return ""
