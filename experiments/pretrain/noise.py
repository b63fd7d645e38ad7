"""Noised sentences, from which a model learns to restore the sentences themselves.

Two kinds: the content words in chunks, as a record of facts would hold them, and text infilling (Lewis et al. 2020,
BART). Either keeps every name, number and quotation as it is, so that what is rare is there to be copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .words import Item, stem

CHUNK_DELIMITERS = (" | ", " | ", " | ", " ; ", " / ", ", ", "\n")
ITEM_DELIMITERS = (" : ", " : ", " : ", " ", ", ", " - ")
LABELS = ("name", "subject", "fact", "text", "topic", "item", "part", "note")
MOST_CHUNKS = 7
DROPPED = (0.0, 0.0, 0.15, 0.3)  # of the content words besides
MASKED = 0.3  # of the words of a text (BART)
SPANS = (0, 1, 2, 2, 3, 3, 3, 4, 4, 5, 6)  # near Poisson with mean 3 (BART)


@dataclass(frozen=True)
class Form:
    """How chunks of items are written as one text."""

    chunks: str  # what parts them
    items: str  # what parts the items of one
    leads: bool  # the delimiter stands before the first chunk too, as in " | a : b | c : d"
    shuffled: bool
    underscores: bool  # for the spaces of a name
    camel_case: bool  # for the content words that stand together
    repeats: bool  # the first name in front of each chunk, as a triple's subject
    labelled: bool


def draw_form(random: Random) -> Form:
    """A form at random; all that can differ does so on its own."""
    chance = lambda share: random.random() < share  # noqa: E731
    return Form(
        random.choice(CHUNK_DELIMITERS), random.choice(ITEM_DELIMITERS), leads=chance(0.5), shuffled=chance(0.5),
        underscores=chance(0.5), camel_case=chance(0.3), repeats=chance(0.4), labelled=chance(0.15),
    )  # fmt: skip


def content(found: Sequence[Item], form: Form, random: Random) -> str:
    """The items in chunks, as ``form`` has them; some content words may be missing, no name is."""
    dropped = random.choice(DROPPED)
    kept = [item for item in found if item.is_name or random.random() >= dropped] or list(found)
    subject = next((item for item in kept if item.is_name), None)
    chunks = _chunks(kept, random)
    if form.shuffled:
        random.shuffle(chunks)
    texts = []
    for chunk in chunks:
        if form.repeats and subject is not None:
            chunk = [subject, *(item for item in chunk if item.text != subject.text)]
        label = [random.choice(LABELS)] if form.labelled else []
        texts.append(form.items.join(label + _written(chunk, form)))
    return (form.chunks if form.leads else "") + form.chunks.join(texts)


def _chunks(kept: Sequence[Item], random: Random) -> list[list[Item]]:
    count = random.randint(1, min(MOST_CHUNKS, (len(kept) + 1) // 2))
    cuts = sorted(random.sample(range(1, len(kept)), count - 1))
    return [list(kept[start:end]) for start, end in zip([0, *cuts], [*cuts, len(kept)], strict=True)]


def _written(chunk: Sequence[Item], form: Form) -> list[str]:
    """The names of a chunk one by one, the content words between two of them together."""
    texts: list[str] = []
    words: list[str] = []
    for item in chunk:
        if item.is_name:
            texts += [*_phrase(words, form), item.text.replace(" ", "_") if form.underscores else item.text]
            words = []
        else:
            words.append(stem(item.text))
    return texts + _phrase(words, form)


def _phrase(words: Sequence[str], form: Form) -> list[str]:
    if not words:
        return []
    return [words[0] + "".join(map(str.capitalize, words[1:]))] if form.camel_case else [" ".join(words)]


def infill(sentences: Sequence[str], mask: str, random: Random) -> str:
    """The sentences in any order, with one ``mask`` for each of some spans of words; none covers a name or number."""
    words = " ".join(random.sample(sentences, len(sentences))).split()
    left, place, written = round(MASKED * len(words)), 0, []
    while place < len(words):
        span = _free(words[place:], min(left, random.choice(SPANS))) if random.random() < MASKED / 2 else -1
        if span >= 0 and left > 0:
            written.append(mask)
            left, place = left - max(1, span), place + span
        if place < len(words):
            written.append(words[place])
            place += 1
    return " ".join(written)


def _free(words: Sequence[str], wanted: int) -> int:
    """How many of the first ``wanted`` words stand before one with a capital letter, a digit or a quotation mark."""
    bound = (i for i, word in enumerate(words[:wanted]) if word != word.lower() or not word.isalpha())
    return next(bound, min(wanted, len(words)))
