"""What is known about a trained prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PIPELINES = {  # PEFT's task types, as the Hub calls them
    "CAUSAL_LM": "text-generation",
    "SEQ_2_SEQ_LM": "text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}


@dataclass(frozen=True)
class Dataset:
    """What a prefix was trained or scored on; of the Hub's data sets also which, and under what licence it is."""

    name: str
    id: str = ""
    license: str = ""
    task: str = ""  # as the Hub calls it, where the data say what is done: "summarization"
    split: str = ""


@dataclass(frozen=True)
class Facts:
    """What a card can say; whatever is empty stays out of it."""

    base_model: str
    task_type: str | None
    parameters: int
    num_virtual_tokens: int
    base_revision: str = ""  # the commit on the Hub that was loaded
    dtype: str = "float32"
    subfolder: str = ""  # where the prefix lies, if not at the top
    name: str = ""
    data: str = ""
    dataset: Dataset | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # shown
    results: Sequence[EvalResult] = ()  # measured, for the metadata
    samples: Sequence[tuple[str, str]] = ()  # a prompt and what the model makes of it

    @property
    def pipeline(self) -> str | None:
        """What the Hub calls the task."""
        told = self.dataset.task if self.dataset else ""
        return told or PIPELINES.get(self.task_type or "")


def results(scores: Mapping[str, float], dataset: Dataset, task_type: str | None) -> list[EvalResult]:
    """Scores as the Hub's metadata have them; what is no finite number stays out."""
    return [
        EvalResult(
            task_type=dataset.task or PIPELINES.get(task_type or "", "text-generation"),
            dataset_type=dataset.id or dataset.name, dataset_name=dataset.name, dataset_split=dataset.split or None,
            metric_type=name, metric_value=round(value, 4),
        )
        for name, value in scores.items()
        if isfinite(value)
    ]  # fmt: skip


def public_name(model: str) -> str:
    """A Hub id as it is; of a directory only its name, for where it lies is nobody's business."""
    return Path(model).name if Path(model).is_dir() else model


def cached_revision(model: str, revision: str | None = None) -> str:
    """The commit of a Hub's model that this machine loads; "" for any other model."""
    try:
        path = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return ""
    return Path(path).parent.name if isinstance(path, str) and not Path(model).is_dir() else ""
