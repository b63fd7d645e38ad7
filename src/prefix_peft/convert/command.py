"""What can be asked of ``prefix-peft convert``, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..commands.arguments import BaseArguments
from ..commands.models import load_base
from .converting import OURS, convert
from .formats import FORMATS

WRITTEN = [name for name, known in FORMATS.items() if known.is_written]


@dataclass
class ConvertArguments(BaseArguments):
    """prefix-peft convert OLD NEW: a prefix of another library as a release of this one, or the reverse.

    OLD is a directory or a safetensors file, whose format is recognised; NEW a directory that does not exist yet. The
    base model is loaded, and the prefix is tried on it: what cannot do the same is refused with the reason.

      prefix-peft convert their-prefix my-prefix --model gpt2-medium
      prefix-peft convert my-prefix their-prefix --model gpt2-medium --to peft
    """

    old: str = field(default="", metadata={"help": "The prefix that there is.", "metavar": "OLD"})
    new: str = field(default="", metadata={"help": "The directory to write.", "metavar": "NEW"})
    to: str = field(
        default=OURS,
        metadata={"help": "The format of NEW.", "choices": WRITTEN},
    )
    positional: ClassVar[tuple[str, ...]] = ("old", "new")  # given without their names


def convert_command(arguments: ConvertArguments) -> None:
    """Convert; say what was found, what was written, and what else there is to know."""
    model, _ = load_base(arguments.model, arguments.bits, arguments.dtype)
    done = convert(arguments.old, arguments.new, model, arguments.to)
    print(f"{arguments.old} ({done.old}) is now {arguments.new} ({done.new}).")
    for note in done.notes:
        print(f"Note: {note}")
    if done.new == OURS:
        print(f'Try it: prefix-peft generate --model {arguments.model} --adapter {arguments.new} --prompt "..."')
