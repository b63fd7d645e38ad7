"""NIST (Doddington 2002): matched n-grams weighed by how much they say, as mteval computes it for the E2E challenge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from .texts import checked

ORDER = 5
BETA = math.log(0.5) / math.log(1.5) ** 2  # a system two thirds as long as the references is worth half

Ngrams = Counter[tuple[str, ...]]


def nist(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The NIST score, from 0 up, of words that spaces part (tokenise first, as the protocol e2e does).

    An n-gram is matched as often as in the reference that has it most often. What it says is
    log2(count of its first n - 1 words / count of it) over all references. Per n-gram length, what the matches say is
    averaged over the system's n-grams, and these averages are summed. Too short a system is penalised against the
    references' mean length.

    nltk's NIST differs: it matches each n-gram length against the one best reference.

    Raises:
        ValueError: the two lists do not fit each other.
    """
    texts, answers = checked(predictions, references)
    rows = [(text.split(), [answer.split() for answer in row]) for text, row in zip(texts, answers, strict=True)]
    counts: Ngrams = Counter()
    for _, row in rows:
        counts.update(ngram for answer in row for n in range(ORDER + 1) for ngram in _ngrams(answer, n))
    total = sum(_average(rows, n, counts) for n in range(1, ORDER + 1))
    length = sum(len(words) for words, _ in rows)
    wanted = sum(sum(map(len, row)) / len(row) for _, row in rows)
    return total * _penalty(length, wanted)


def _average(rows: list[tuple[list[str], list[list[str]]]], n: int, counts: Ngrams) -> float:
    said, written = 0.0, 0
    for words, row in rows:
        most: Ngrams = Counter()
        for answer in row:
            most |= Counter(_ngrams(answer, n))
        matched = Counter(_ngrams(words, n)) & most
        said += sum(times * math.log2(counts[ngram[:-1]] / counts[ngram]) for ngram, times in matched.items())
        written += max(0, len(words) - n + 1)
    return said / written if written else 0.0


def _ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """All of them; for n = 0 one empty tuple for each word, so that single words are weighed by the number of words."""
    return (tuple(words[i : i + n]) for i in range(len(words) - max(n, 1) + 1))


def _penalty(length: int, wanted: float) -> float:
    if not length:
        return 0.0
    return math.exp(BETA * math.log(min(1.0, length / wanted)) ** 2) if wanted else 1.0
