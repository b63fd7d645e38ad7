"""ROUGE-L (Lin 2004) and CIDEr-D (Vedantam et al. 2015) as coco-caption computes them, of words that spaces part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .java import meteor, treebank_tokens
from .texts import Unavailable, checked


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean over inputs, from 0 to 1: F with beta = 1.2 of the best precision and the best recall of any reference.

    Raises:
        ValueError: the two lists do not fit each other.
        Unavailable: no pycocoevalcap.
    """
    try:
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as fault:
        raise _absent() from fault
    return _mean(Rouge(), predictions, references)


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D, from 0 to 10, n-grams weighed by these references; raises what `rouge_l` does."""
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as fault:
        raise _absent() from fault
    return _mean(Cider(), predictions, references)


def coco(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """METEOR, ROUGE-L and CIDEr of texts that are tokenised here, as coco-caption and so the E2E challenge do."""
    texts, answers = checked(predictions, references)
    tokens = iter(treebank_tokens([*texts, *(text for row in answers for text in row)]))
    texts = [next(tokens) for _ in texts]
    answers = [[next(tokens) for _ in row] for row in answers]
    return {"meteor": meteor(texts, answers), "rouge_l": rouge_l(texts, answers), "cider": cider(texts, answers)}


def _mean(scorer: Any, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    texts, answers = checked(predictions, references)
    mean, _ = scorer.compute_score(dict(enumerate(answers)), {i: [text] for i, text in enumerate(texts)})
    return float(mean)


def _absent() -> Unavailable:
    return Unavailable("needs pycocoevalcap; pip install prefix-peft[official]")
