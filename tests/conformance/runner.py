"""Runs checks on an architecture; what fails with a prefix is excused where it fails without one as well."""

from __future__ import annotations

import gc
import re
import signal
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import batches
import forward
import generation
import real_tokens
import torch
import training
import transformers
from subject import NotApplicable, Subject
from zoo import Case

MODULES = (forward, generation, batches, training, real_tokens)
CHECKS = {check.__name__: check for module in MODULES for check in module.CHECKS}
BARE_SEEDS = range(3)  # a bare model that writes one token over and over may hold by chance
REASON_LENGTH = 160
PASS, EXCUSED, FAIL, NOT_APPLICABLE = "pass", "excused", "fail", "not applicable"


@dataclass(frozen=True)
class Result:
    """How one check ended on one architecture."""

    case: Case
    check: str
    outcome: str
    reason: str = ""  # of the bare model where excused
    details: str = ""
    seconds: float = 0.0


def run(case: Case, names: Sequence[str], limit: int) -> list[Result]:
    """Run the named checks, each for at most ``limit`` seconds."""
    quieten()
    wrapped = Subject(case, wrapped=True)
    bare = [Subject(replace(case, seed=seed), wrapped=False) for seed in BARE_SEEDS]
    results = [_run_one(case, name, wrapped, bare, limit) for name in names]
    del wrapped, bare
    gc.collect()
    return results


def quieten() -> None:
    """Tiny models gain nothing from threads, and have warnings of their own."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def _run_one(case: Case, name: str, wrapped: Subject, bare: Sequence[Subject], limit: int) -> Result:
    if not case.attends and name != "refusal":
        return Result(case, name, NOT_APPLICABLE, "has no attention")
    start = time.perf_counter()
    error = _attempt(name, wrapped, limit)
    outcome, reason, details = PASS, "", ""
    if isinstance(error, NotApplicable):
        outcome, reason = NOT_APPLICABLE, str(error)
    elif error is not None:
        details = "".join(traceback.format_exception(error))
        excuses = (_attempt(name, subject, limit) for subject in bare)
        excuse = next((excuse for excuse in excuses if excuse is not None), None)
        outcome, reason = _judge(error, excuse, type(bare[0].bare).__name__)
    return Result(case, name, outcome, reason, details, time.perf_counter() - start)


def _judge(error: Exception, excuse: Exception | None, model_name: str) -> tuple[str, str]:
    """What a failure counts, given what the same check raised without a prefix."""
    if excuse is None:
        return FAIL, _summary(error, model_name)
    if isinstance(excuse, NotApplicable):
        return NOT_APPLICABLE, str(excuse)
    return EXCUSED, _summary(excuse, model_name)


def _attempt(name: str, subject: Subject, limit: int) -> Exception | None:
    """What the check raises, None where it holds."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # flex attention fails once it was traced for too many shapes
    try:
        with _time_limit(limit), torch.compiler.set_stance("force_eager"):  # compiling takes longer than all the rest
            CHECKS[name](subject)
    except Exception as error:
        return error
    return None


def _summary(error: Exception, model_name: str) -> str:
    """One line that many architectures may share; brackets at its end hold the figures of this one."""
    text = re.sub(r" \(.*\)$", "", (str(error).strip().splitlines() or [""])[0])
    text = text.replace(model_name, "this model")
    return (text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}")[:REASON_LENGTH]


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
