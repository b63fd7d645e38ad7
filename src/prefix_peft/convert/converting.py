"""One conversion: read, put onto the model and proved, written whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from peft import PeftModel
from transformers import PreTrainedModel

from ..config import PrefixConfig
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
    if not target.is_written:
        raise ValueError(f"no file of the format {to!r} is written: its code takes no folded prefix.")
    if new.exists() or not new.absolute().parent.is_dir():
        raise ValueError(f"{new} must be a new directory in one that exists; choose another name.")
    notes = _of_places(model) if known.is_cache or target.is_cache else []
    give_back = remember(model)
    wrapped = known.load(source, model, notes)
    try:
        for config in cast("dict[str, PrefixConfig]", wrapped.peft_config).values():
            config.trained_with = config.trained_with or {"converted_from": known.name}
        with whole_directory(new) as draft:
            target.write(draft, wrapped, notes)
    finally:
        give_back(wrapped)
    return Conversion(known.name, to, notes)


def _of_places(model: PreTrainedModel) -> list[str]:
    """Where a prefix and a cache part ways: in long texts of models that forget or stretch."""
    config, notes = model.config.get_text_config(decoder=True), []
    if window := getattr(config, "sliding_window", None):
        notes.append(f"in sliding layers a cache is out of sight after {window} tokens; a prefix here stays in sight.")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        notes.append(
            f"the rotary frequencies change in texts of more than {config.max_position_embeddings} tokens "
            f"({rope['rope_type']}), among which a cache counts and a prefix here does not; up to there both are equal."
        )
    return notes
