"""Corpus BLEU and chrF of generated texts, as sacrebleu computes them."""

from collections.abc import Sequence
from typing import Any


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``{"bleu": ..., "chrf": ...}``, both from 0 to 100; ``references[i]`` are the right answers to input i.

    Inputs may differ in their number of references. A missing reference is left out; it does not count as an empty
    one, as it does where reference files are padded with empty lines for multi-bleu.perl (DART's own scripts). Report
    :func:`signatures` beside the scores: they say how the text was tokenised and by which version.

    Raises ValueError when the two lists do not fit each other, ImportError without sacrebleu.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} lists of references; give one each.")
    metrics = _metrics(references)
    return {name: metric.corpus_score(list(predictions), None).score for name, metric in metrics.items()}


def signatures(references: Sequence[Sequence[str]]) -> dict[str, str]:
    """sacrebleu's description of each score on these references, e.g. ``nrefs:var|case:mixed|...|version:2.6.0``."""
    return {name: str(metric.get_signature()) for name, metric in _metrics(references).items()}


def _metrics(references: Sequence[Sequence[str]]) -> dict[str, Any]:
    streams: Any = _streams(references)  # Any: sacrebleu's hints leave out the None that its code reads
    try:
        import sacrebleu  # only needed here, and not by those who only train
    except ImportError as fault:
        raise ImportError("scores need sacrebleu; pip install prefix-peft[metrics]") from fault
    return {"bleu": sacrebleu.BLEU(references=streams), "chrf": sacrebleu.CHRF(references=streams)}


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Transpose to sacrebleu's form: stream k holds the k-th reference of every input, None where there is none."""
    if not references:
        raise ValueError("nothing to score; give at least one prediction and its references.")
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"references[{i}] must be a list of strings, not empty, got {texts!r}.")
    most = max(len(texts) for texts in references)
    return [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]
