"""The model card: what a prefix was made for, what it scored, and, first of all, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .whole import write_text

MARK = "prefix_peft"  # a card that mentions it already says how to load


@dataclass(frozen=True)
class Facts:
    """What is known about a trained prefix; whatever is empty stays out of the card."""

    base_model: str
    task_type: str | None
    parameters: int
    num_virtual_tokens: int
    data: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    sample: tuple[str, str] | None = None  # a prompt and what the model makes of it


def write_card(directory: Path, facts: Facts) -> None:
    """Write ``README.md`` with the metadata of the Hub."""
    data = ModelCardData(
        base_model=facts.base_model or None,
        library_name="peft",
        tags=["prefix-tuning", "prefix-peft", f"base_model:adapter:{facts.base_model}"],
    )
    text = f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}"
    write_text(directory / "README.md", str(ModelCard(text, ignore_metadata_errors=True)))


def explain_loading(directory: Path, base_model: str | None, task_type: str | None) -> None:
    """Put how to load a prefix on the first lines of a card that does not say it, such as PEFT's template."""
    path = directory / "README.md"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    if MARK in text:
        return
    head, mark, body = text.rpartition("\n---\n") if text.startswith("---\n") else ("", "", text)
    write_text(path, f"{head}{mark}\n{_loading(base_model or '', task_type)}\n{body.lstrip()}")


def _loading(base_model: str, task_type: str | None) -> str:
    auto = "AutoPeftModelForSeq2SeqLM" if task_type == "SEQ_2_SEQ_LM" else "AutoPeftModelForCausalLM"
    base = f" of `{base_model}`" if base_model else ""
    return (
        f"This is a trained prefix{base} (prefix-tuning, Li & Liang 2021). Install\n"
        "`prefix-peft` and import it before loading; without the import PEFT stops with `KeyError: 'PREFIX_KV'`.\n\n"
        "```python\nimport prefix_peft\n"
        f'from peft import {auto}\n\nmodel = {auto}.from_pretrained("path/or/id/of/this/adapter")\n```\n'
    )


def _body(facts: Facts) -> str:
    parts = [_loading(facts.base_model, facts.task_type), "## What it is\n"]
    rows = {
        "base model": f"`{facts.base_model}`",
        "virtual tokens": facts.num_virtual_tokens,
        "parameters": f"{facts.parameters:,}",
        "data": facts.data,
    }
    parts.append(_table(("", ""), {key: value for key, value in rows.items() if value}))
    if facts.metrics:
        parts += ["\n## Results\n", _table(("metric", "value"), {k: f"{v:.2f}" for k, v in facts.metrics.items()})]
    if facts.training:
        parts += ["\n## Training\n", _table(("argument", "value"), facts.training)]
    if facts.sample:
        parts.append(f"\n## A sample\n\n```text\n{facts.sample[0]}\n  -> {facts.sample[1]}\n```\n")
    return "\n".join(parts)


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join(lines) + "\n"
