"""What ought to be reached, by measure and case: at most so many times the bare model, or so much more."""

from __future__ import annotations

from .rounds import Case, compared
from .sides import OURS

GOALS = {
    ("decode", "batch 1, prefix 20"): 1.10,
    ("decode", "batch 8, prefix 20"): 1.10,
    ("decode", "batch 8, prefix 1024"): 1.30,
    ("decode", "batch 32, prefix 1024"): 1.30,
    ("decode", "batch 32, prefix 2048"): 1.45,
    ("train", "8x128, prefix 20"): 1.10,
    ("train", "4x512, prefix 20"): 1.10,
    ("train", "8x128, prefix 512"): 1.35,
    ("memory", "batch 32, prefix 2048, live tensors"): 150.0,
    ("switch", "16 rows with 16 prefixes of 64"): 1.50,
}


def goal(case: Case) -> float | None:
    """The goal of this case, where it has one."""
    return GOALS.get((case.measure, case.name))


def over_baseline(case: Case, side: str) -> float | None:
    """How ``side`` compares with the baseline: a ratio or a difference; None where either is missing."""
    if side not in case.samples or case.baseline not in case.samples:
        return None
    return compared(case.samples[side], case.samples[case.baseline], case.compare)


def reached(case: Case) -> bool | None:
    """Whether our side reached the goal; None where there is none."""
    figure, most = over_baseline(case, OURS), goal(case)
    return None if most is None or figure is None else figure <= most
