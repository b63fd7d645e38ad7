"""Write docs/command-line.md from the parsers themselves: python documentation/commands.py docs/command-line.md"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prefix_peft.__main__ import COMMANDS, USAGE, _parser
from prefix_peft.training.recipe_command import add_recipe

HEAD = """# Command line

Written by `python documentation/commands.py docs/command-line.md` from the parsers. `prefix-peft COMMAND --help` prints
the same; `python -m prefix_peft` is the same as `prefix-peft`.

```text
{usage}
```
"""
WITH_RECIPES = ("train", "evaluate")
UNSAID = (None, False, "", [], argparse.SUPPRESS)  # defaults that say nothing


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD.format(usage=USAGE.strip()), *(section(name) for name in COMMANDS)])


def section(command: str) -> str:
    """One command: what it is, and a table of its options."""
    parser = _parser(command)
    if command in WITH_RECIPES:
        add_recipe(parser, _parser(command), command, [])
    what, _, more = str(parser.description).partition("\n")
    paragraphs = [f"## {command}", sentence(what.partition(": ")[2]), *map(paragraph, more.strip("\n").split("\n\n"))]
    return "\n\n".join([*filter(None, paragraphs), table(parser)]) + "\n"


def sentence(text: str) -> str:
    """The same with a capital."""
    return text[:1].upper() + text[1:]


def paragraph(text: str) -> str:
    """Examples, which are indented, as code; the rest as it is."""
    if not text.startswith("  "):
        return escaped(text)
    return "```text\n" + "\n".join(line.removeprefix("  ") for line in text.splitlines()) + "\n```"


def table(parser: argparse.ArgumentParser) -> str:
    """Option, default, meaning; in the order of ``--help``."""
    rows = [row(action) for action in parser._actions if action.dest != "help"]
    return "\n".join(["| option | default | |", "|---|---|---|", *rows])


def row(action: argparse.Action) -> str:
    """One option."""
    names = [name for name in action.option_strings if "_" not in name and not name.startswith("--no-")]
    shown = ", ".join(f"`{name}`" for name in names) or f"`{action.metavar}`"
    default = "" if action.default in UNSAID else f"`{action.default}`"
    choices = f" One of {', '.join(f'`{choice}`' for choice in action.choices)}." if action.choices else ""
    what = escaped(str(action.help or "")) + choices
    return f"| {shown} | {'required' if action.required else default} | {what} |"


def escaped(text: str) -> str:
    """What Markdown would read as its own."""
    return text.replace("|", r"\|").replace("*", r"\*").replace("<", r"\<").replace("[", r"\[")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
