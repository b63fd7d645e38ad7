"""Plain text as paragraphs of sentences.

A corpus is a folder of ``*.txt.gz``: paragraphs are parted by an empty line, documents by a line ``<|endoftext|>``.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

DOCUMENT = "<|endoftext|>"
LEAST_WORDS, MOST_WORDS = 4, 60  # of a sentence; shorter ones are mostly headings
COMMON = 3  # a word that is written small so often is no name where a sentence starts with it

_BORDER = re.compile(r"""(?<=[.!?])["']?\s+(?=["']?[A-Z0-9])""")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Dr|St|No|Jr|Sr|vs|vol|ca?|Capt|Col|Gen|Rev|Prof|Mt)\.$")
_SMALL = re.compile(r"\b[a-z]+\b")
_CAPITALISED = re.compile(r"\b[A-Z][a-z]+\b")

Paragraph = Sequence[str]


@dataclass(frozen=True)
class Corpus:
    """Each file's paragraphs, how often a file is drawn from, and the words that are no names."""

    files: Sequence[Sequence[Paragraph]]
    weights: Sequence[float]
    common: frozenset[str]
    words: tuple[Sequence[str], Sequence[str]]  # the common ones, and capitalised ones that are not common, each once

    def passage(self, random: Random, sentences: int) -> list[str]:
        """As many consecutive sentences, or all of a shorter paragraph."""
        (paragraphs,) = random.choices(self.files, self.weights)
        paragraph = random.choice(paragraphs)
        start = random.randrange(max(1, len(paragraph) - sentences + 1))
        return list(paragraph[start : start + sentences])


def read_corpus(paths: Iterable[Path], encyclopedic_share: float = 0.65) -> Corpus:
    """Read the files; those named ``encyclopedic_*`` together are drawn from with a probability of their own.

    Raises:
        ValueError: there are no files, or one has no sentence.
    """
    paths = sorted(paths)
    if not paths:
        raise ValueError("no files to read; a corpus is a folder that holds *.txt.gz.")
    texts = [gzip.decompress(path.read_bytes()).decode() for path in paths]
    files = [list(_paragraphs(text)) for text in texts]
    for path, paragraphs in zip(paths, files, strict=True):
        if not paragraphs:
            raise ValueError(f"{path} has no sentence of {LEAST_WORDS} to {MOST_WORDS} words.")
    common = _counted(_SMALL, texts, COMMON)
    capitalised = _counted(_CAPITALISED, texts, 1)
    names = sorted(word for word in capitalised if word.lower() not in common)
    return Corpus(files, _weights(paths, texts, encyclopedic_share), common, (sorted(common), names))


def split_sentences(paragraph: str) -> list[str]:
    """Part a paragraph where a full stop, a question or an exclamation ends a sentence; abbreviations do not."""
    sentences, start = [], 0
    for border in _BORDER.finditer(paragraph):
        if not _ABBREVIATION.search(paragraph, start, border.start()):
            sentences.append(paragraph[start : border.end()].strip())
            start = border.end()
    return [sentence for sentence in [*sentences, paragraph[start:].strip()] if sentence]


def _paragraphs(text: str) -> Iterable[Paragraph]:
    for paragraph in text.split("\n\n"):
        lines = " ".join(line for line in paragraph.splitlines() if line != DOCUMENT)
        sentences = [s for s in split_sentences(lines) if LEAST_WORDS <= len(s.split()) <= MOST_WORDS]
        if sentences:
            yield sentences


def _weights(paths: Sequence[Path], texts: Sequence[str], share: float) -> list[float]:
    """A file's length, scaled so that the encyclopedic ones have ``share`` of all wherever there are others."""
    groups = [path.name.startswith("encyclopedic") for path in paths]
    totals = Counter[bool]()
    for group, text in zip(groups, texts, strict=True):
        totals[group] += len(text)
    parts = {True: share, False: 1 - share}
    return [parts[group] * len(text) / totals[group] for group, text in zip(groups, texts, strict=True)]


def _counted(pattern: re.Pattern[str], texts: Iterable[str], least: int) -> frozenset[str]:
    counts = Counter[str]()
    for text in texts:
        counts.update(pattern.findall(text))
    return frozenset(word for word, count in counts.items() if count >= least)
