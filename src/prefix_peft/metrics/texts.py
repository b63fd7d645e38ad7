"""What every metric takes: predictions, and one list of references for each."""

from __future__ import annotations

from collections.abc import Sequence


class Unavailable(RuntimeError):
    """A metric that cannot be computed here, and what it needs."""


def checked(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Both as lists, ``references[i]`` the right answers to input i.

    Raises:
        ValueError: the two do not fit each other, there are none, or they are not texts.
    """
    if isinstance(predictions, str) or not all(isinstance(text, str) for text in predictions):
        raise ValueError(f"predictions must be a list of strings, got {predictions!r:.80}.")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} lists of references; give one each.")
    check_references(references)
    return list(predictions), [list(texts) for texts in references]


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Refuse what is not a list of references for each of at least one input."""
    if not references:
        raise ValueError("nothing to score; give at least one prediction and its references.")
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"references[{i}] must be a list of strings, not empty, got {texts!r}.")
