"""Give a target its cases, and judge each: accepted and right, or refused in words, soon, and without a trace."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from .dice import Dice

REFUSALS = (ValueError, TypeError, OSError)  # what README documents
MOST_SECONDS = 1.0  # of the processor, for one case
MOST_MEMORY = 2**30  # bytes that all cases of a target together may need at once
CLOSELY = 100  # every so many cases the model computes as well
FAULTS = 5  # that are kept


class Target(Protocol):
    """Something that reads what others wrote."""

    def case(self, dice: Dice) -> Any:
        """A case, made by these choices."""
        ...

    def take(self, case: Any) -> None:
        """Read it: an error of `REFUSALS` is a refusal, an AssertionError says what is wrong with what was read."""
        ...

    def changed(self, closely: bool) -> str:
        """What is not as it was before, in words."""
        ...


@dataclass
class Tally:
    """What became of the cases."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        """Those in which everything held."""
        return self.accepted + self.refused


def judge(target: Target, dice: Iterable[tuple[str, Dice]]) -> Tally:
    """Every case once; a fault is kept with the name of its dice."""
    tally = Tally()
    for name, throw in dice:
        tally.tried += 1
        case = target.case(throw)
        fault = _fault(target, case, tally, closely=tally.tried % CLOSELY == 0)
        if fault and len(tally.faults) < FAULTS:
            tally.faults.append(f"{name}: {fault}; given {shortened(case)}")
    return tally


def _fault(target: Target, case: Any, tally: Tally, closely: bool) -> str:
    start, refused = time.process_time(), True
    try:
        target.take(case)
        refused = False
    except REFUSALS:
        pass
    except AssertionError as error:
        return f"taken, but {error}"
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    if seconds > MOST_SECONDS:
        return f"took {seconds:.1f} s of the processor"
    if changed := target.changed(closely):
        return f"{'refused' if refused else 'taken and taken away'}, but {changed}"
    tally.refused, tally.accepted = tally.refused + refused, tally.accepted + (not refused)
    return ""


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Let an allocation of more than `MOST_MEMORY` beyond what is in use now fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def shortened(case: Any, most: int = 300) -> str:
    """Enough of it to know it again."""
    text = repr(case)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
