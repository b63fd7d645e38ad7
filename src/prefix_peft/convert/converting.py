"""One conversion: read, put onto the model and proved, written whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from ..whole import whole_directory
from .attaching import remember
from .formats import format_named, look

OURS = "prefix-peft"


@dataclass(frozen=True)
class Conversion:
    """What was done, and what a user should know of it."""

    old: str  # the format that was found
    new: str
    notes: list[str] = field(default_factory=list)


def load(path: str | Path, model: PreTrainedModel) -> PeftModel:
    """``model`` with the prefix at ``path``, whatever its format, ready to run or to train on.

    Raises:
        ValueError: a prefix that was made for another model, or that cannot do the same here; a pickle.
    """
    source, known = look(path)
    return known.load(source, model, [])


def convert(old: str | Path, new: str | Path, model: PreTrainedModel, to: str = OURS) -> Conversion:
    """Write the prefix at ``old`` as the directory ``new`` in the format ``to``; ``model`` is afterwards as before.

    Args:
        old: a directory or a safetensors file; its format is recognised.
        new: a directory that does not exist yet.
        model: the base model that it was trained for.
        to: a name in `FORMATS`.

    Raises:
        ValueError: what cannot be the same in the other format, with the reason. Nothing is written then.
    """
    target, new = format_named(to), Path(new)
    source, known = look(old)
    if target is known:
        raise ValueError(f"{old} is of the format {to!r} already; choose another with --to.")
    if new.exists() or not new.absolute().parent.is_dir():
        raise ValueError(f"{new} must be a new directory in one that exists; choose another name.")
    notes: list[str] = []
    give_back = remember(model)
    wrapped = known.load(source, model, notes)
    try:
        for config in wrapped.peft_config.values():
            config.trained_with = config.trained_with or {"converted_from": known.name}
        with whole_directory(new) as draft:
            target.write(draft, wrapped, notes)
    finally:
        give_back(wrapped)
    return Conversion(known.name, to, notes)
