"""Cells with the hyperparameters of the paper, where it has any for the task and the base: `prefix-peft recipes`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefix_peft.commands.recipes import RECIPES, Recipe

from .cell import Cell
from .grids import label

METHODS = {
    "prefix_mlp": "", "fine_tuning": "/fine-tuning", "ft_top2": "/ft-top2", "adapter_3pct": "/adapter-3%",
    "adapter": "/adapter-0.1%",
}  # fmt: skip
SHARED = ("objective", "num_train_epochs", "max_steps", "per_device_train_batch_size")  # by methods that it has not


def as_in_the_paper(cell: Cell) -> Cell:
    """The same cell with the recipe's epochs, batches, rate, objective, lengths and decoding.

    A method that the paper has not is trained for as long as its prefix, at a rate of its own.

    Raises:
        ValueError: the paper has no recipe for this task at this base.
    """
    method = label(cell)
    own = _find(cell, METHODS[method]) if method in METHODS else None
    prefix = _find(cell, "")
    if prefix is None:
        known = sorted({"/".join(name.split("/")[:2]) for name in RECIPES})
        raise ValueError(
            f"the paper has no recipe for {cell.task} with {cell.base_name}; it has {known}. Leave --recipes out."
        )
    values = _values(own.training if own else prefix.training)
    given = values if own else {name: values[name] for name in SHARED if name in values}
    lengths = {
        name: given[name] for name in ("num_virtual_tokens", "encoder_hidden_size", "init_text") if name in given
    }
    decoding = _values(prefix.decoding)
    return replace(
        cell.with_knobs(**lengths),
        epochs=given.get("num_train_epochs"), steps=given.get("max_steps", cell.steps), separator=None,
        batch_size=given["per_device_train_batch_size"], learning_rate=given.get("learning_rate", cell.learning_rate),
        objective=given.get("objective", cell.objective), num_beams=decoding["num_beams"] if cell.num_beams else 0,
        length_penalty=decoding.get("length_penalty", cell.length_penalty), max_new_tokens=decoding["max_new_tokens"],
    )  # fmt: skip


def _find(cell: Cell, suffix: str) -> Recipe | None:
    name = f"{cell.task}/{cell.base_name.split('/')[-1]}{suffix}"
    return RECIPES.get(f"{name}/low-{cell.examples}") if cell.examples else RECIPES.get(name)


def _values(sourced: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for values in sourced.values() for name, value in values.items()}
