"""Rounds: every side once a round, in an order that turns, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

Trial = Callable[[], float]


@dataclass
class Case:
    """One line of a table: what each side took, round by round."""

    measure: str  # 'decode'
    name: str  # 'batch 8, prefix 20'
    unit: str
    baseline: str  # the side that the others are compared with
    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # of sides that cannot do it
    compare: str = "ratio"  # or 'difference', or 'nothing'


def measure(case: Case, trials: Mapping[str, Trial], rounds: int, progress: tqdm, warm_up: bool = True) -> Case:
    """Run each of ``trials`` once to warm up and then once a round. A side that fails is told of and left out."""
    running = dict(trials)
    with collected_between_trials():
        for number in range(-1 if warm_up else 0, rounds):
            for side in turned(list(running), number):
                progress.set_postfix_str(f"{case.name}: {side}", refresh=False)
                sample = attempt(case, side, running[side])
                if sample is None:
                    del running[side]
                elif number >= 0:
                    case.samples.setdefault(side, []).append(sample)
            progress.update()
    return case


def attempt(case: Case, side: str, trial: Trial) -> float | None:
    """What ``trial`` measures; None where it fails, which ``case`` then tells, and forgets what went well before."""
    gc.collect()
    try:
        return trial()
    except Exception as error:
        case.failures[side] = f"{type(error).__name__}: {error}"
        case.samples.pop(side, None)
        return None


@contextmanager
def collected_between_trials() -> Iterator[None]:
    """The garbage collector does not run by itself, and when told to it looks only at what is new."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def turned(sides: Sequence[str], number: int) -> list[str]:
    """The order of one round: another begins each time."""
    start = number % max(len(sides), 1)
    return [*sides[start:], *sides[:start]]


def now(device: str) -> float:
    """Seconds, once all that was asked of ``device`` is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compared(samples: Sequence[float], baseline: Sequence[float], how: str = "ratio") -> float | None:
    """The median over rounds of the ratio (or difference) to the baseline in the same round."""
    if how == "nothing" or len(samples) != len(baseline):
        return None
    pairs = zip(samples, baseline, strict=True)
    return statistics.median(a / b if how == "ratio" else a - b for a, b in pairs)


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, least, and quartiles."""
    ordered = torch.tensor(samples, dtype=torch.float64)
    low, middle, high = (torch.quantile(ordered, share).item() for share in (0.25, 0.5, 0.75))
    return {"median": middle, "minimum": min(samples), "lower_quartile": low, "upper_quartile": high}
