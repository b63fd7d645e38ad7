"""Protocols: which metrics a task is judged by, of which tokens and which references, as its official scripts do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from . import java, summaries
from .bleu import bleu, chrf, padded, signature
from .coco import coco
from .named import Scorer, scorer
from .nist import nist
from .ter import ter
from .texts import Unavailable, checked

Texts = list[str]
References = list[list[str]]

MTEVAL: dict[str, Any] = {"lowercase": True, "smooth_method": "none"}
MARKS = "\u0300-\u036f"  # combining accents: lower-casing makes one of a capital I with a dot
MULTI_BLEU: dict[str, Any] = {"tokenize": "none", "lowercase": True, "smooth_method": "none", "force": True}


@dataclass(frozen=True)
class Part:
    """Scores that are computed together: their names, how, what that is called, and why it cannot be done here."""

    names: tuple[str, ...]
    compute: Callable[[Texts, References], dict[str, float]]
    about: Callable[[References], str]
    lacking: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Protocol:
    """What happens to predictions and references, and the scores of what comes out."""

    parts: tuple[Part, ...]
    prepare: Callable[[Texts, References], tuple[Texts, References]] = lambda texts, references: (texts, references)


@dataclass
class Report:
    """Scores by name, why there is no score of another name, and how each was computed."""

    scores: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    protocol: str = "plain",
    metrics: Sequence[str] = (),
    progress: bool = False,
) -> Report:
    """Score by a protocol in `PROTOCOLS`, and by further ``metrics`` (see `scorer`), which read the texts as they are.

    ``references[i]`` are the right answers to input i. BLEU, chrF and the ROUGEs of summaries are from 0 to 100.
    METEOR, ROUGE-L and TER are fractions, and CIDEr and NIST on their own scales, as the official programs print them.

    Raises:
        ValueError: an unknown protocol or metric, or lists that do not fit each other.
        ImportError: no sacrebleu, no Unidecode for webnlg, or no evaluate for a metric that needs it.
    """
    given = checked(predictions, references)
    prepared = find(protocol).prepare(*given)
    jobs = [(part.names, part.compute, prepared) for part in find(protocol).parts]
    jobs += [((name,), compute, given) for name, compute in further(protocol, metrics).items()]
    report = Report(signatures=signatures(references, protocol))
    with tqdm(jobs, desc="scoring", unit="metric", disable=not progress) as bar:
        for names, compute, texts in bar:
            bar.set_postfix_str(", ".join(names))
            try:
                report.scores |= compute(*texts)
            except Unavailable as fault:
                report.unavailable |= dict.fromkeys(names, str(fault))
    return report


def further(protocol: str, metrics: Sequence[str]) -> dict[str, Scorer]:
    """What computes each of the metrics beside a protocol; raises ValueError where it has one of that name already."""
    taken = {name for part in find(protocol).parts for name in part.names}.intersection(metrics)
    if taken:
        raise ValueError(f"the protocol {protocol!r} already scores {sorted(taken)}; leave them out of the metrics.")
    return {name: scorer(name) for name in metrics}


def signatures(references: Sequence[Sequence[str]], protocol: str = "plain") -> dict[str, str]:
    """How each score of a protocol is computed on these references, by its name."""
    _, answers = find(protocol).prepare([], [list(texts) for texts in references])
    return {name: part.about(answers) for part in find(protocol).parts for name in part.names}


def lacking(protocol: str) -> dict[str, str]:
    """Which scores of a protocol are unavailable here, and why: to be said before anything is generated for them."""
    reasons = {name: part.lacking() for part in find(protocol).parts for name in part.names}
    return {name: reason for name, reason in reasons.items() if reason}


def find(protocol: str) -> Protocol:
    """The protocol of that name; raises ValueError where there is none."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose from {sorted(PROTOCOLS)}.")
    return PROTOCOLS[protocol]


def as_webnlg(texts: Texts, references: References) -> tuple[Texts, References]:
    """Words and punctuation parted, ASCII, lower case, and at most three references: WebNLG 2017, evaluation.py.

    The script transliterates a prediction before it parts the words, and a reference afterwards.
    """
    to_ascii = _transliterate()
    predictions = [_parted(to_ascii(text)).lower() for text in texts]
    return predictions, [[to_ascii(_parted(text).lower()) for text in row[:3]] for row in references]


def as_dart(texts: Texts, references: References) -> tuple[Texts, References]:
    """The same, but accents stay: so DART publishes its references, and expects predictions to be."""
    rows = [texts, *(row[:3] for row in references)]
    predictions, *answers = [[_parted(text, MARKS).lower() for text in row] for row in rows]
    return predictions, answers


def _parted(text: str, also: str = "") -> str:
    """Each character that is no letter, digit or underscore, nor in ``also``, becomes a word of its own."""
    return " ".join(" ".join(re.split(rf"([^\w{also}])", text)).split())


def _transliterate() -> Callable[[str], str]:
    try:
        from unidecode import unidecode
    except ImportError as fault:
        raise ImportError(
            "WebNLG's script writes texts in ASCII by Unidecode; pip install prefix-peft[official]"
        ) from fault
    return unidecode


def mteval_tokens(text: str) -> str:
    """Lower-cased tokens as mteval-v13a makes them."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()(text.lower())


def _sacrebleu(name: str, metric: str, compute: Callable[..., float], **options: Any) -> Part:
    return Part(
        (name,),
        lambda texts, references: {name: compute(texts, references, **options)},
        lambda references: signature(metric, references, **options),
    )


def _mteval_nist(texts: Texts, references: References) -> dict[str, float]:
    tokens = [mteval_tokens(text) for text in texts]
    return {"nist": nist(tokens, [[mteval_tokens(text) for text in row] for row in references])}


TRIPLES = (
    Part(
        ("bleu",),
        lambda texts, references: {"bleu": bleu(texts, padded(references), **MULTI_BLEU)},
        lambda references: f"as multi-bleu.perl -lc: {signature('BLEU', padded(references), **MULTI_BLEU)}",
    ),
    Part(
        ("meteor",),
        lambda texts, references: {"meteor": java.meteor(texts, references)},
        lambda _: "METEOR 1.5, -l en -norm",
        java.lacking,
    ),
    Part(("ter",), lambda texts, references: {"ter": ter(texts, references)}, lambda _: "as tercom 0.7.25"),
)

SUMMARY = Part(summaries.NAMES, summaries.rouge, lambda _: "rouge_score with stemming, mean F1", summaries.lacking)

PROTOCOLS = {
    "plain": Protocol((_sacrebleu("bleu", "BLEU", bleu), _sacrebleu("chrf", "CHRF", chrf))),
    "e2e": Protocol(
        (
            _sacrebleu("bleu", "BLEU", bleu, **MTEVAL),
            Part(("nist",), _mteval_nist, lambda _: "as mteval-v13a: lower case, its tokens, 1- to 5-grams"),
            Part(("meteor", "rouge_l", "cider"), coco, lambda _: "as coco-caption: treebank tokens", java.lacking),
        )
    ),
    "webnlg": Protocol(TRIPLES, as_webnlg),
    "dart": Protocol(TRIPLES, as_dart),
    "summary": Protocol((SUMMARY,)),
}
