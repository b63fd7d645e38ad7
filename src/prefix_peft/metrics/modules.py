"""The metrics as modules of HuggingFace's evaluate, e.g. ``Ter().compute(predictions=[...], references=[[...], ...])``.

None needs a network, as ``evaluate.load("ter")`` does: that fetches a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .bleu import bleu, chrf
from .coco import cider, rouge_l
from .java import meteor
from .nist import nist
from .summaries import rouge
from .ter import ter

try:
    import datasets
    import evaluate
except ImportError as _fault:
    raise ImportError("metric modules need evaluate; pip install prefix-peft[evaluate]") from _fault

if TYPE_CHECKING:

    class Metric:  # evaluate's says nothing of its types
        def compute(
            self, *, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
        ) -> dict[str, Any] | None:
            """The scores by name."""
else:
    Metric = evaluate.Metric


class TextMetric(Metric):
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

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
    ) -> dict[str, Any]:
        found = self.function(predictions, references, **options)
        return found if isinstance(found, dict) else {self.function.__name__: found}


class Bleu(TextMetric):
    function: Callable[..., Any] = staticmethod(bleu)


class Chrf(TextMetric):
    function: Callable[..., Any] = staticmethod(chrf)


class Nist(TextMetric):
    function: Callable[..., Any] = staticmethod(nist)


class Meteor(TextMetric):
    function: Callable[..., Any] = staticmethod(meteor)


class RougeL(TextMetric):
    function: Callable[..., Any] = staticmethod(rouge_l)


class Cider(TextMetric):
    function: Callable[..., Any] = staticmethod(cider)


class Ter(TextMetric):
    function: Callable[..., Any] = staticmethod(ter)


class Rouge(TextMetric):
    function: Callable[..., Any] = staticmethod(rouge)
