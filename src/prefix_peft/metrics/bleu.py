"""BLEU (Papineni et al. 2002), chrF and chrF++ (Popović 2015, 2017), as sacrebleu (Post 2018) computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .texts import check_references, checked


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any) -> float:
    """Corpus BLEU from 0 to 100, with mteval's 13a tokenisation and mixed case; ``options`` are sacrebleu.BLEU's.

    Inputs may differ in their number of references. A missing reference is left out; it does not count as an empty
    one, as it does where reference files are padded with empty lines (see `padded`).

    Raises:
        ValueError: the two lists do not fit each other.
        ImportError: no sacrebleu.
    """
    return _score("BLEU", predictions, references, options)


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0, **options: Any) -> float:
    """Corpus chrF from 0 to 100, or with ``word_order=2`` chrF++; raises what `bleu` does."""
    return _score("CHRF", predictions, references, {"word_order": word_order, **options})


def padded(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """As many references for each input, the missing ones empty.

    multi-bleu.perl reads one file for each k-th reference, and an empty line of it is a reference of length 0: it can
    be nearest to a short prediction's length, which then has no part in the brevity penalty.
    """
    most = max(map(len, references))
    return [[*texts, *[""] * (most - len(texts))] for texts in references]


def signature(metric: str, references: Sequence[Sequence[str]], **options: Any) -> str:
    """What sacrebleu's ``metric`` did to the text, and its version: ``nrefs:var|case:mixed|...|version:2.6.0``."""
    return str(_metric(metric, references, options).get_signature())


def _score(
    metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]], options: dict[str, Any]
) -> float:
    texts, answers = checked(predictions, references)
    return _metric(metric, answers, options).corpus_score(texts, None).score


def _metric(metric: str, references: Sequence[Sequence[str]], options: dict[str, Any]) -> Any:
    check_references(references)
    try:
        import sacrebleu  # only needed here, and not by those who only train
    except ImportError as fault:
        raise ImportError("scores need sacrebleu; pip install prefix-peft[metrics]") from fault
    return getattr(sacrebleu, metric)(references=_streams(references), **options)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Transpose to sacrebleu's form: stream k holds the k-th reference of every input, None where there is none."""
    most = max(map(len, references))
    return [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]
