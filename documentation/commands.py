"""Write docs/command-line.md from the parsers themselves: python documentation/commands.py docs/command-line.md"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from unittest.mock import patch

from prefix_peft.__main__ import COMMANDS, USAGE, _parser, main
from prefix_peft.commands.recipe_command import add_recipe

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
    listed = re.findall(r"^  (\w+) {2,}", USAGE, re.MULTILINE)
    return "\n".join([HEAD.format(usage=USAGE.strip()), *map(section, listed)])


def section(command: str) -> str:
    """One command: what it is, and a table of its options."""
    parser = parser_of(command)
    what, _, more = str(parser.description).strip("\n").partition("\n")
    paragraphs = [f"## {command}", sentence(re.sub(rf"^prefix-peft {command}[A-Z ]*: ", "", what))]
    paragraphs += map(paragraph, more.strip("\n").split("\n\n"))
    return "\n\n".join([*filter(None, paragraphs), table(parser)]) + "\n"


def parser_of(command: str) -> argparse.ArgumentParser:
    """That which ``main`` makes.

    Raises:
        RuntimeError: it makes none.
    """
    if command in COMMANDS:
        parser = _parser(command)
        if command in WITH_RECIPES:
            add_recipe(parser, _parser(command), command, [])
        return parser
    try:
        with patch.object(argparse.ArgumentParser, "parse_known_args", _raise):
            main([command])
    except Made as made:
        return made.args[0]
    raise RuntimeError(f"prefix-peft {command} parsed nothing; is all installed that it needs?")


class Made(BaseException):
    """A parser that was about to parse."""


def _raise(parser: argparse.ArgumentParser, *_: object) -> None:
    raise Made(parser)


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
    names = [name for name in action.option_strings if "_" not in name]
    shown = ", ".join(f"`{name}`" for name in names) or f"`{action.metavar or action.dest.upper()}`"
    default = "" if action.default in UNSAID else f"`{action.default}`"
    choices = f" One of {', '.join(f'`{choice}`' for choice in action.choices)}." if action.choices else ""
    what = escaped(str(action.help or "")) + choices
    return f"| {shown} | {'required' if action.required else default} | {what} |"


def escaped(text: str) -> str:
    """What Markdown would read as its own."""
    return text.replace("|", r"\|").replace("*", r"\*").replace("<", r"\<").replace("[", r"\[")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
