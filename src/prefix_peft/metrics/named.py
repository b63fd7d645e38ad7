"""Metrics by name: the functions of this package, what ``evaluate.load`` finds, and modules of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from .bleu import bleu, chrf
from .coco import cider, rouge_l
from .java import meteor
from .nist import nist
from .summaries import rouge
from .ter import ter
from .texts import checked

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "bleu": bleu, "chrf": chrf, "chrf++": partial(chrf, word_order=2), "nist": nist, "meteor": meteor,
    "rouge_l": rouge_l, "cider": cider, "ter": ter, "rouge": rouge,
}  # fmt: skip

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]


def scorer(name: str) -> Scorer:
    """What computes a metric: one of `FUNCTIONS`, a module by its Python file, or by a name for ``evaluate.load``.

    Raises:
        ValueError: there is none.
        ImportError: no evaluate, which a module needs.
    """
    if name in FUNCTIONS:
        return partial(_by_function, name)
    try:
        import evaluate
    except ImportError as fault:
        raise ImportError(
            f"metric {name!r} is none of {sorted(FUNCTIONS)}, and other modules need evaluate; "
            "pip install prefix-peft[evaluate]"
        ) from fault
    try:
        return partial(_by_module, name, evaluate.load(name))
    except (FileNotFoundError, ConnectionError, TypeError) as fault:
        raise ValueError(
            f"unknown metric {name!r}; choose from {sorted(FUNCTIONS)}, or give the Python file of an "
            f"evaluate.Metric ({fault})."
        ) from fault


def _by_function(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    found = FUNCTIONS[name](predictions, references)
    return found if isinstance(found, dict) else {name: found}


def _by_module(
    name: str, module: Any, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """The numbers that a module finds; one that takes single references gets them where every input has just one."""
    texts, answers = checked(predictions, references)
    if _takes_one(module):
        if any(len(row) > 1 for row in answers):
            raise ValueError(f"metric {name!r} takes one reference to each input, and some inputs have several.")
        answers = [row[0] for row in answers]
    found = module.compute(predictions=texts, references=answers) or {}
    label = Path(name).stem
    numbers = {key: float(value) for key, value in found.items() if isinstance(value, Real)}
    return {key if key.startswith(label) else f"{label} {key}": value for key, value in numbers.items()}


def _takes_one(module: Any) -> bool:
    from datasets import Value

    features = module.features if isinstance(module.features, list) else [module.features]
    return all(isinstance(each.get("references"), Value) for each in features)
