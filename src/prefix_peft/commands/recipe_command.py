"""``prefix-peft recipes``, and ``--recipe NAME`` of the commands that take one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from .recipes import RECIPES, Recipe, find
from .report import markdown_table

SHOWN = {
    "learning_rate": "learning rate", "num_train_epochs": "epochs", "max_steps": "steps",
    "per_device_train_batch_size": "batch", "gradient_accumulation_steps": "accumulated", "num_virtual_tokens": "P",
}  # fmt: skip
# What the user gives instead of an option that a recipe would set.
INSTEAD = {"task": {"train_file", "data_file"}, "max_steps": {"num_train_epochs"}, "num_train_epochs": {"max_steps"}}


def main(argv: list[str] | None = None) -> None:
    """Print all recipes, or one with the source of each of its values.

    Raises:
        ValueError: an unknown name.
    """
    parser = argparse.ArgumentParser(prog="prefix-peft recipes", description="The paper's hyperparameters, by name.")
    parser.add_argument("name", nargs="?", help="show this one, with the source of each value")
    name = parser.parse_args(argv).name
    print(_list() if name is None else _one(find(name)))


def _list() -> str:
    rows = []
    for recipe in RECIPES.values():
        values = _flat(recipe.training)
        rows.append([recipe.name, *(str(values.get(name, "")) for name in SHOWN)])
    table = markdown_table(["recipe", *SHOWN.values()], rows)
    return f"{table}\n\nprefix-peft recipes NAME shows all of one, with sources; train and evaluate take --recipe NAME."


def _one(recipe: Recipe) -> str:
    parts = [f"{recipe.name}, by {recipe.method}"]
    for title, table in (("training", recipe.training), ("evaluation", recipe.decoding)):
        rows = [[_said(name, value), source] for source, values in table.items() for name, value in values.items()]
        parts.append(markdown_table([title, "source"], rows))
    return "\n\n".join([*parts, f"It {recipe.note}."] if recipe.note else parts)


def add_recipe(
    parser: argparse.ArgumentParser, scanner: argparse.ArgumentParser, command: str, argv: Sequence[str]
) -> None:
    """Let ``parser`` take ``--recipe``, and have the one in ``argv`` for its defaults; says which values it sets.

    ``scanner`` is a parser like ``parser``, by which to see what the user gives: all its own defaults go.

    Raises:
        ValueError: an unknown recipe, or one that the command cannot follow.
    """
    for either in (parser, scanner):
        either.add_argument("--recipe", metavar="NAME", help="For what is not given; prefix-peft recipes lists them.")
    for action in scanner._actions:
        action.default, action.required = argparse.SUPPRESS, False
    given = vars(scanner.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0])
    if "recipe" not in given:
        return
    recipe = find(given["recipe"])
    values = _flat(recipe.options(command))
    taken = {name: value for name, value in values.items() if not given.keys() & {name, *INSTEAD.get(name, ())}}
    parser.set_defaults(**taken)
    for action in parser._actions:
        action.required = action.required and action.dest not in taken
    if os.environ.get("RANK", "0") == "0":
        print(f"recipe {recipe.name}: {' '.join(_said(name, value) for name, value in taken.items())}")
        if left := [_said(name, value) for name, value in values.items() if name not in taken]:
            print(f"not from it, as you say otherwise: {' '.join(left)}")


def _flat(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for values in table.values() for name, value in values.items()}


def _said(name: str, value: Any) -> str:
    return f"--{name.replace('_', '-')} {value!r}" if " " in str(value) else f"--{name.replace('_', '-')} {value}"
