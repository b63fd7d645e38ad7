"""The hyperparameters of Li & Liang (ACL 2021), by task, model and method, with where each value is from.

The paper and its code (github.com/XiangLi1999/PrefixTuning at 6519d30) do not always agree: a recipe follows the paper,
takes what the paper does not say from the code, and is followed by another of its own where the code says otherwise.

No recipe sets the code's fp16 (--mixed-precision), nor what only the library has (GPT-2's positions shifted by the
prefix) or nobody has (a start from noise, a ban on tokens 628 and 198). Table 6 does not tell GPT-2 medium from large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

Sourced = dict[str, dict[str, Any]]  # values of options, by source

PAPER, CODE = "Li & Liang (ACL 2021)", "github.com/XiangLi1999/PrefixTuning at 6519d30"
TABLE_6, APPENDIX, README = f"{PAPER}, Table 6", f"{PAPER}, appendix", f"{CODE}, README"
SEQ2SEQ = f"{CODE}, seq2seq"
GPT2, BART = ("gpt2-medium", "gpt2-large"), ("facebook/bart-large",)
MODELS: dict[str, tuple[str, ...]] = {
    "prefix": GPT2,
    "fine-tuning": GPT2,
    "ft-top2": GPT2[:1],
    "adapter-3%": GPT2[:1],
    "adapter-0.1%": GPT2[:1],
}

# task, method, learning rate, epochs, batch, P
FULL_DATA: list[tuple[str, str, float, int, int, int | None]] = [
    ("e2e", "prefix", 8e-5, 5, 10, 5),
    ("e2e", "adapter-3%", 5e-5, 5, 5, None),
    ("e2e", "adapter-0.1%", 8e-5, 10, 5, None),
    ("e2e", "fine-tuning", 5e-5, 5, 10, None),
    ("e2e", "ft-top2", 5e-5, 5, 10, None),
    ("webnlg", "prefix", 5e-5, 5, 5, 5),
    ("webnlg", "adapter-3%", 5e-5, 5, 5, None),
    ("webnlg", "adapter-0.1%", 5e-5, 10, 5, None),
    ("webnlg", "fine-tuning", 1e-5, 10, 6, None),
    ("webnlg", "ft-top2", 5e-5, 10, 9, None),
    ("dart", "prefix", 5e-5, 10, 5, 10),
    ("dart", "adapter-3%", 5e-5, 5, 5, None),
    ("dart", "adapter-0.1%", 8e-5, 5, 5, None),
    ("dart", "fine-tuning", 1e-5, 10, 6, None),
    ("dart", "ft-top2", 5e-5, 5, 5, None),
    ("xsum", "prefix", 5e-5, 30, 14, 100),
    ("news-to-sports", "prefix", 5e-5, 15, 36, 40),
    ("news-to-sports", "fine-tuning", 3e-5, 5, 18, None),
    ("within-news", "prefix", 5e-5, 30, 36, 80),
    ("within-news", "fine-tuning", 3e-5, 5, 18, None),
]
# task, method, batch, and for 50, 100, 200 and 500 records: steps (e2e) or epochs (xsum)
LOW_DATA = [
    ("e2e", "prefix", 10, (200, 200, 200, 400)),
    ("e2e", "fine-tuning", 10, (100, 100, 200, 400)),
    ("xsum", "prefix", 5, (30, 20, 20, 20)),
    ("xsum", "fine-tuning", 6, (30, 10, 3, 3)),
]
RECORDS = (50, 100, 200, 500)
LOW_DATA_START = {"e2e": ("table-to-text:", 6), "xsum": ("summarize", 1)}  # the words, and how many tokens they are
LOW_DATA_RATE, LOW_DATA_WARMUP = 5e-5, 100  # steps

TO_TEXT, SECTION_TASKS = ("e2e", "webnlg", "dart"), ("news-to-sports", "within-news")
SECTIONS = "trains on XSum split by section, which is no --task: give --train-file, and --data-file to evaluate"
SUBSET = "trains on a subset: draw {} records, and give them as --train-file"

ALL: Sourced = {CODE: {"warmup_ratio": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 101}}
PREFIX: Sourced = {CODE: {"prefix_dropout": 0.0, "base_dropout": False}, PAPER: {"prefix_projection": True}}
OF_TO_TEXT: Sourced = {CODE: {"objective": "sentence_sum"}, APPENDIX: {"encoder_hidden_size": 512}}
OF_SUMMARIES: Sourced = {
    SEQ2SEQ: {"objective": "token_mean", "max_target_length": 60},
    APPENDIX: {"encoder_hidden_size": 800, "max_source_length": 512},
}
DECODE_TO_TEXT: Sourced = {APPENDIX: {"num_beams": 5}, CODE: {"max_new_tokens": 100}}
DECODE_SUMMARIES: Sourced = {
    APPENDIX: {"num_beams": 6, "length_penalty": 0.8, "max_source_length": 512},
    SEQ2SEQ: {"min_new_tokens": 11, "max_new_tokens": 62},
}


@dataclass(frozen=True)
class Recipe:
    """How a model was trained for a task by a method, and how it decoded: options of ``train`` and of ``evaluate``."""

    name: str
    method: str
    training: Sourced
    decoding: Sourced
    note: str = ""

    def options(self, command: str) -> Sourced:
        """What it sets for ``train`` or ``evaluate``.

        Raises:
            ValueError: ``train`` does not train by its method.
        """
        if command == "train" and self.method != "prefix":
            prefixes = [name for name, recipe in RECIPES.items() if recipe.method == "prefix"]
            near = get_close_matches(self.name, prefixes, 1, 0.0)[0]
            raise ValueError(f"recipe {self.name!r} is of {self.method}, to compare with; train a prefix: {near!r}.")
        return self.training if command == "train" else self.decoding


def find(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: there is none; says which are near.
    """
    if name not in RECIPES:
        near = " or ".join(map(repr, get_close_matches(name, RECIPES, 3, 0.4))) or "another"
        raise ValueError(f"unknown recipe {name!r}; did you mean {near}? `prefix-peft recipes` lists all.")
    return RECIPES[name]


def _recipe(task: str, model: str, method: str, own: Sourced, suffix: str = "", note: str = "") -> Recipe:
    name = f"{task}/{model.split('/')[-1]}" + (f"/{method}" if method != "prefix" else "") + suffix
    text = task in TO_TEXT
    is_task = {} if task in SECTION_TASKS else {"task": task}
    parts = [ALL, *([PREFIX, OF_TO_TEXT if text else OF_SUMMARIES] if method == "prefix" else []), own]
    asked: Sourced = {"the task": {"model": model, **({} if note else is_task)}}
    protocol = task if text else "summary"
    decoding: Sourced = {"the task": {"model": model, **is_task, "protocol": protocol}}
    return Recipe(
        name, method, _merged(asked, *parts), _merged(decoding, DECODE_TO_TEXT if text else DECODE_SUMMARIES), note
    )


def _merged(*parts: Sourced) -> Sourced:
    """All of them; what an earlier one says of an option that a later one sets is left out."""
    merged: Sourced = {}
    for part in parts:
        newer = {name for values in part.values() for name in values}
        merged = {source: {k: v for k, v in values.items() if k not in newer} for source, values in merged.items()}
        for source, values in part.items():
            merged[source] = merged.get(source, {}) | values
    return {source: values for source, values in merged.items() if values}


def _of_full_data() -> Iterator[Recipe]:
    for task, method, rate, epochs, batch, length in FULL_DATA:
        own: dict[str, Any] = {
            "learning_rate": rate, "num_train_epochs": epochs, "per_device_train_batch_size": batch,
        }  # fmt: skip
        if length is not None:
            own["num_virtual_tokens"] = length
        for model in MODELS[method] if task in TO_TEXT else BART:
            yield _recipe(task, model, method, {TABLE_6: own}, note=SECTIONS if task in SECTION_TASKS else "")


def _of_low_data() -> Iterator[Recipe]:
    """The code warms up for 100 steps; as a share of the steps where they follow from epochs and batches."""
    for task, method, batch, amounts in LOW_DATA:
        words, length = LOW_DATA_START[task]
        start = {"init_text": words, "num_virtual_tokens": length} if method == "prefix" else {}
        for records, amount in zip(RECORDS, amounts, strict=True):
            steps = amount if task == "e2e" else amount * -(-records // batch)
            own: dict[str, Any] = {"max_steps": steps} if task == "e2e" else {"num_train_epochs": amount}
            own |= {"learning_rate": LOW_DATA_RATE, "per_device_train_batch_size": batch, **start}
            warmup = {"warmup_ratio": min(1.0, LOW_DATA_WARMUP / steps)}
            sourced = {f"{APPENDIX}, low data": own, f"{LOW_DATA_WARMUP} steps of warm-up": warmup}
            model = GPT2[0] if task == "e2e" else BART[0]
            yield _recipe(task, model, method, sourced, f"/low-{records}", SUBSET.format(records))


def _of_the_code() -> Iterator[Recipe]:
    """What the README of the code trains XSum with; the paper has other figures."""
    training = {
        "num_virtual_tokens": 200, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 3,
        "num_train_epochs": 30, "learning_rate": 5e-5, "encoder_hidden_size": 800,
    }  # fmt: skip
    recipe = _recipe("xsum", BART[0], "prefix", {README: training, SEQ2SEQ: {"max_source_length": 1024}}, "/code")
    decoding = _merged(recipe.decoding, {SEQ2SEQ: {"length_penalty": 1.0, "max_source_length": 1024}})
    yield replace(recipe, decoding=decoding)


RECIPES = {recipe.name: recipe for part in (_of_full_data(), _of_the_code(), _of_low_data()) for recipe in part}
