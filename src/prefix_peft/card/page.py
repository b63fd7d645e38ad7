"""The text of a card, section by section."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from .facts import BYTES, Facts

HERE = "path/or/id/of/this/adapter"  # until the repository is known
MADE_WITH = ("prefix-peft", "peft", "transformers", "torch")
AUTO = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}


def page(facts: Facts) -> str:
    """All that is known, how to load it first."""
    text = loading(facts.base_model, facts.task_type, subfolder=facts.subfolder)
    text = with_section(text, "What it is", table(("", ""), _what_it_is(facts)))
    if facts.metrics:
        shown = {name: f"{value:.2f}" for name, value in facts.metrics.items()}
        text = with_section(text, "Results", table(("metric", "value"), shown))
    if facts.training:
        text = with_section(text, "Training", table(("argument", "value"), facts.training))
    return with_section(text, "Samples", samples(facts.samples)) if facts.samples else text


def loading(base_model: str, task_type: str | None, place: str = HERE, revision: str = "", subfolder: str = "") -> str:
    """How to load a prefix, which stands before the first heading."""
    auto = AUTO.get(task_type or "", "AutoPeftModel")
    base = f" of `{base_model}`" if base_model else ""
    options = {"revision": revision, "subfolder": subfolder}
    given = "".join(f', {name}="{value}"' for name, value in options.items() if value)
    return (
        f"This is a trained prefix{base} (prefix-tuning, Li & Liang 2021). Install\n"
        "`prefix-peft` and import it before loading; without the import PEFT stops with `KeyError: 'PREFIX_KV'`.\n\n"
        "```python\nimport prefix_peft\n"
        f'from peft import {auto}\n\nmodel = {auto}.from_pretrained("{place}"{given})\n```\n'
    )


def _what_it_is(facts: Facts) -> dict[str, Any]:
    size, dataset = facts.parameters * BYTES[facts.dtype] / 2**10, facts.dataset
    rows = {
        "base model": f"`{facts.base_model}`" if facts.base_model else "",
        "base model's revision": f"`{facts.base_revision}`" if facts.base_revision else "",
        "task": facts.pipeline,
        "virtual tokens": facts.num_virtual_tokens,
        "parameters": f"{facts.parameters:,}",
        "size": f"{f'{size:.1f} KiB' if size < 2**10 else f'{size / 2**10:.2f} MiB'} in {facts.dtype}",
        "data": facts.data,
        "licence of the data": dataset.license if dataset else "",
        "made with": ", ".join(f"{name} {version_of(name)}" for name in MADE_WITH),
    }  # fmt: skip
    return {key: value for key, value in rows.items() if value}


def version_of(package: str) -> str:
    """Of an installed package; our own is known where it is not installed too."""
    if package == "prefix-peft":
        import prefix_peft

        return prefix_peft.__version__
    return version(package)


def samples(pairs: Iterable[tuple[str, str]]) -> str:
    """Prompts and what the model writes, each on one line."""
    lines = [f"in   {_one_line(prompt)}\nout  {_one_line(text)}" for prompt, text in pairs]
    text = "\n\n".join(lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def table(head: Sequence[str], rows: Mapping[str, Any]) -> str:
    """Markdown, a row for each item."""
    cells = [[*head], ["---"] * len(head), *([key, str(value)] for key, value in rows.items())]
    return "\n".join(f"|{'|'.join(map(_cell, row))}|" for row in cells)


def _cell(value: str) -> str:
    return value if value == "---" else f" {_one_line(value).replace('|', chr(92) + '|')} "


def _one_line(text: str) -> str:
    return " ".join(text.split())


def with_section(text: str, title: str, content: str) -> str:
    """``text`` with this section in the place of the one of the same title, or at its end."""
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    start, end = found.span() if found else (len(text), len(text))
    return f"{text[:start].rstrip()}\n\n## {title}\n\n{content.strip()}\n\n{text[end:]}".rstrip() + "\n"


def with_loading(text: str, how: str) -> str:
    """``text`` with another beginning, up to its first heading."""
    found = re.search(r"^## ", text, re.MULTILINE)
    return f"{how}\n{text[found.start() :] if found else ''}"
