"""Memory: how much more than the bare model a side takes while it decodes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prefix_peft.planning.counting import LiveBytes

from .decode import write
from .rounds import Case, measure
from .settings import Settings
from .sides import BARE, attach, build, configs

MIB = 2**20
M_MMAP_THRESHOLD = -3  # of malloc.h
IMPORTED = ["peft", "prefix_peft", "transformers.generation", "transformers.models.llama.modeling_llama"]
HOW = """The largest batch behind the longest prefix: its prompt is read and a few tokens are written, by each side in a
process of its own. "Live tensors" is the most bytes of all tensors that live at once (prefix, cache and intermediate
results), counted operation by operation; on a GPU, what its allocator counts. It is the same in every run and on every
machine, so it is the figure that goals are for. "Resident" is the process's peak as Linux sees it, where the C library
was told to keep nothing: a check that no kernel hides anything large from the count."""


def cases(settings: Settings, progress: tqdm) -> Iterator[Case]:
    """The largest batch behind the longest prefix."""
    batch, prefix = max(settings.batches), max(settings.prefixes)
    for what, taken in kinds(settings.device).items():
        case = Case("memory", f"batch {batch}, prefix {prefix}, {what}", "MiB", BARE, compare="difference")
        trials = {side: partial(in_its_own_process, taken, settings, side, batch, prefix) for side in configs(prefix)}
        yield measure(case, trials, 1, progress, warm_up=False)


def count(settings: Settings) -> int:
    """How many rounds there will be."""
    return len(kinds(settings.device))


def in_its_own_process(function: Callable[..., float], *given: Any) -> float:
    """A trial in a fresh process, so that nothing of another side is in its memory."""
    with fresh_processes(1) as pool:
        return pool.submit(function, *given).result()


def fresh_processes(number: int) -> ProcessPoolExecutor:
    """Processes in which nothing has happened yet, but for imports."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(IMPORTED)  # once, for all of them
    return ProcessPoolExecutor(number, mp_context=context)


def kinds(device: str) -> dict[str, Callable[..., float]]:
    """What can be counted here."""
    if device.startswith("cuda"):
        return {"live tensors": allocated}
    return {"live tensors": live} | ({"resident": resident} if _resident_peak() is not None else {})


def live(settings: Settings, side: str, batch: int, prefix: int) -> float:
    """MiB of the tensors that live at once: the side's own, and those of one call of ``generate``."""
    model = build(settings)
    with LiveBytes() as counter:
        wrapped = attach(model, configs(prefix)[side])
        counter.peak = counter.now
        write(wrapped, settings, batch)
    return counter.peak / MIB


def allocated(settings: Settings, side: str, batch: int, prefix: int) -> float:
    """The same on a GPU, where the allocator knows."""
    wrapped = attach(build(settings), configs(prefix)[side])
    write(wrapped, settings, batch)  # libraries take their workspace once
    torch.cuda.reset_peak_memory_stats(settings.device)
    write(wrapped, settings, batch)
    return torch.cuda.max_memory_allocated(settings.device) / MIB


def resident(settings: Settings, side: str, batch: int, prefix: int) -> float:
    """MiB of this process that were in memory at once."""
    give_back_at_once()
    write(attach(build(settings), configs(prefix)[side]), settings, batch)
    peak = _resident_peak()
    assert peak is not None
    return peak


def give_back_at_once() -> None:
    """Tell glibc to map what is large; else what it keeps for later makes the peak differ by 100 MiB between runs."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**16)


def _resident_peak() -> float | None:
    """Not ``ru_maxrss``, which a process inherits from the one that started it."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else int(found[1]) / 1024
