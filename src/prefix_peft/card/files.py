"""Cards on the disk. What somebody wrote by hand is never written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import ModelCard

from ..whole import write_text
from .facts import Facts
from .metadata import metadata
from .page import loading, page
from .signature import is_by_hand, signed, unsigned

CARD = "README.md"
MARK = "prefix_peft"  # a card that mentions it already says how to load


def read_card(directory: Path) -> str | None:
    """Its text, if there is one."""
    path = directory / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def has_own_card(directory: Path) -> bool:
    """Whether a card lies there that somebody wrote or edited, and that has to stay."""
    text = read_card(directory)
    return text is not None and is_by_hand(text)


def write_card(directory: Path, facts: Facts) -> None:
    """Write ``README.md`` with the metadata of the Hub, unless somebody wrote one by hand."""
    if not has_own_card(directory):
        write_text(directory / CARD, new_card(facts))


def new_card(facts: Facts) -> str:
    """Metadata and text, signed."""
    return signed(f"---\n{metadata(facts).to_yaml()}\n---\n\n{page(facts)}")


def changed(text: str, change: Callable[[ModelCard], None]) -> str | None:
    """A card of ours after ``change``; None for a card that is not ours any more."""
    own = unsigned(text)
    if own is None:
        return None
    card = ModelCard(own)
    change(card)
    return signed(str(card))


def change_card(directory: Path, change: Callable[[ModelCard], None]) -> bool:
    """Change the card that lies there; False, and nothing done, where there is none of ours."""
    text = changed(read_card(directory) or "", change)
    if text is not None:
        write_text(directory / CARD, text)
    return text is not None


def explain_loading(directory: Path, base_model: str | None, task_type: str | None) -> None:
    """Put how to load a prefix on the first lines of a card that another program wrote, such as a trainer's."""
    text = read_card(directory)
    if text is None or MARK in text or is_by_hand(text):
        return
    head, mark, body = text.rpartition("\n---\n") if text.startswith("---\n") else ("", "", text)
    write_text(directory / CARD, f"{head}{mark}\n{loading(base_model or '', task_type)}\n{body.lstrip()}")
