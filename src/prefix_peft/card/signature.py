"""Who wrote a card last: one of ours that nobody has touched since is told by its last line."""

from __future__ import annotations

import re
from hashlib import sha256

LINE = "<!-- Written by prefix-peft, and kept up to date by it until you edit it. {} -->"
SIGNED = re.compile(r"\n<!-- Written by prefix-peft,[^\n]* ([0-9a-f]{16}) -->\n?\Z")
PROGRAMS = (  # what PEFT, transformers and TRL leave in theirs
    "[More Information Needed]",
    "generated_from_trainer",
    "This model card has been generated automatically",
    "It has been trained using [TRL]",
)


def signed(text: str) -> str:
    """A card, with the line that says that it is as it was written."""
    text = text.rstrip() + "\n"
    return f"{text}\n{LINE.format(_digest(text))}\n"


def unsigned(text: str) -> str | None:
    """One of our cards without that line; None for any other, and for one that somebody has edited."""
    text = text.replace("\r\n", "\n")
    found = SIGNED.search(text)
    return text[: found.start()] if found and found[1] == _digest(text[: found.start()]) else None


def is_by_hand(text: str) -> bool:
    """Whether a person wrote it, or wrote in it."""
    return unsigned(text) is None and not any(mark in text for mark in PROGRAMS)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
