"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) of summaries, as Google's rouge_score computes them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from .texts import Unavailable, checked

NAMES = ("rouge1", "rouge2", "rougeL")


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean F1 of stemmed words, from 0 to 100, each against the reference that suits it best.

    Raises:
        ValueError: the two lists do not fit each other.
        Unavailable: no rouge_score.
    """
    texts, answers = checked(predictions, references)
    if reason := lacking():
        raise Unavailable(reason)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(NAMES), use_stemmer=True)
    rows = [scorer.score_multi(row, text) for text, row in zip(texts, answers, strict=True)]
    return {name: 100 * sum(row[name].fmeasure for row in rows) / len(rows) for name in NAMES}


def lacking() -> str | None:
    """Why these scores are unavailable here, or None."""
    return None if find_spec("rouge_score") else "needs rouge_score; pip install prefix-peft[metrics]"
