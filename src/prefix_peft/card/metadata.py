"""What the Hub itself reads of a card: the metadata above its text."""

from __future__ import annotations

from collections.abc import Iterable

from huggingface_hub import EvalResult, ModelCardData

from .facts import Facts

TAGS = ("prefix-tuning", "prefix-peft")
BASE_TAG = "base_model:adapter:"


def metadata(facts: Facts) -> ModelCardData:
    """The fields of the Hub's specification, as far as they are known."""
    data = ModelCardData(
        library_name="peft", pipeline_tag=facts.pipeline, tags=[*TAGS],
        datasets=[facts.dataset.id] if facts.dataset and facts.dataset.id else None,
    )  # fmt: skip
    if facts.base_model:
        set_base_model(data, facts.base_model)
    add_results(data, facts.results, facts.name or "prefix")
    return data


def set_base_model(data: ModelCardData, base_model: str) -> None:
    """Say which model the prefix belongs to, wherever the Hub looks for it."""
    data.base_model = base_model
    data["base_model_relation"] = "adapter"
    tags = [tag for tag in data.tags or [] if not tag.startswith(BASE_TAG)]
    data.tags = [*tags, f"{BASE_TAG}{base_model}"]


def add_results(data: ModelCardData, results: Iterable[EvalResult], name: str) -> None:
    """Put measured metrics beside those that are there, or in the place of earlier ones of the same kind."""
    new = list(results)
    known = [old for old in data.eval_results or [] if not any(old.is_equal_except_value(one) for one in new)]
    if known or new:
        data.eval_results = [*known, *new]
        data.model_name = data.model_name or name
