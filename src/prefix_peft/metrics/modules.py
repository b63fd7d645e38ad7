"""The metrics as modules of HuggingFace's evaluate, and modules of others: ``Bleu().compute(predictions=, references=)``.

None needs a network: a class needs no script from the Hub, as ``evaluate.load("bleu")`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

try:
    import datasets
    import evaluate
except ImportError as fault:
    raise ImportError("metric modules need evaluate; pip install evaluate") from fault


class TextMetric(evaluate.Metric):
    """A plain function of predictions and references as a module; what it returns is kept under its name."""

    function: Callable[..., Any]

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=str(self.function.__doc__),
            citation=str(self.function.__doc__),
            inputs_description="predictions: a list of texts; references: for each a list of texts",
            features=datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
        )

    def _compute(self, *, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any) -> dict:
        found = self.function(predictions, references, **options)
        return found if isinstance(found, dict) else {self.function.__name__: found}


class Bleu(TextMetric):
    function = staticmethod(bleu)


class Chrf(TextMetric):
    function = staticmethod(chrf)


class Nist(TextMetric):
    function = staticmethod(nist)


class Meteor(TextMetric):
    function = staticmethod(meteor)


class RougeL(TextMetric):
    function = staticmethod(rouge_l)


class Cider(TextMetric):
    function = staticmethod(cider)


class Ter(TextMetric):
    function = staticmethod(ter)


class Rouge(TextMetric):
    function = staticmethod(rouge)


OWN = {
    "bleu": Bleu, "chrf": Chrf, "nist": Nist, "meteor": Meteor, "rouge_l": RougeL, "cider": Cider, "ter": Ter,
    "rouge": Rouge,
}  # fmt: skip


def load(name: str) -> evaluate.EvaluationModule:
    """The module of that name: one of `OWN`, a metric's Python file or folder, or what ``evaluate.load`` finds.

    Raises:
        ValueError: there is none.
    """
    if name in OWN:
        return OWN[name]()
    try:
        return evaluate.load(name)
    except (FileNotFoundError, ConnectionError) as fault:
        raise ValueError(
            f"unknown metric {name!r}; choose from {sorted(OWN)}, or give a module's Python file ({fault})."
        ) from fault


def scores_of(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The numbers that a module finds; one that takes a single reference gets it where every input has just one.

    Raises:
        ValueError: an unknown module, or one that cannot take these references.
    """
    texts, answers = checked(predictions, references)
    module = load(name)
    if not _takes_lists(module):
        if any(len(row) > 1 for row in answers):
            raise ValueError(f"metric {name!r} takes one reference to each input, and some inputs have several.")
        answers = [row[0] for row in answers]
    found = module.compute(predictions=texts, references=answers) or {}
    label = name if name in OWN else Path(name).stem
    numbers = {key: float(value) for key, value in found.items() if isinstance(value, Real)}
    return {key if key.startswith(label) else f"{label} {key}": value for key, value in numbers.items()}


def _takes_lists(module: evaluate.EvaluationModule) -> bool:
    features = module.features if isinstance(module.features, list) else [module.features]
    return not all(isinstance(each.get("references"), datasets.Value) for each in features)
