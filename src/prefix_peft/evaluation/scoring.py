"""Score a trained prefix on a data set: loss on the targets, and metrics of what the model writes; or any texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from .. import metrics
from ..commands.arguments import EvaluateArguments, ScoreArguments
from ..commands.models import load_prefix, recall_separator
from ..data.batches import collate, encode_pairs, padding_id
from ..data.records import Record
from ..data.tasks import load_task, read_answers, read_jsonl, read_predictions
from ..ranks.sharing import shared_batches
from .loss import mean_loss
from .texts import generate_texts

Scores = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores by system, what each system wrote, and everything needed to do it again."""

    arguments: EvaluateArguments
    scores: dict[str, Scores]
    generations: dict[str, list[str]]
    records: list[Record]
    signatures: dict[str, str]
    unavailable: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: arguments, scores and how they are computed, and one object for each record."""
        rows = [
            {"source": record.source, "references": list(record.references)}
            | {system: texts[i] for system, texts in self.generations.items()}
            for i, record in enumerate(self.records)
        ]
        return {
            "arguments": asdict(self.arguments), "scores": self.scores, "unavailable": self.unavailable,
            "signatures": self.signatures, "records": rows,
        }  # fmt: skip


def evaluate(arguments: EvaluateArguments) -> Evaluation:
    """Load model and prefix, score them on the data that ``arguments`` names."""
    if arguments.task is not None:
        records = load_task(arguments.task, arguments.data_dir, arguments.split)
    else:
        records = read_jsonl(str(arguments.data_file))
    records = records[: arguments.max_samples]
    # First, as they may be missing: sacrebleu, and what else the scores need.
    signatures = metrics.signatures([record.references for record in records], arguments.protocol)
    metrics.further(arguments.protocol, arguments.metrics)
    for line in explained(metrics.lacking(arguments.protocol)):
        print(line)
    model, tokenizer = load_prefix(arguments.model, arguments.adapter, arguments.bits, arguments.dtype)
    separator = recall_separator(arguments.adapter, arguments.separator)
    reports, generations = {}, {}
    for system in ["base model", "with prefix"] if arguments.without_prefix else ["with prefix"]:
        with model.disable_adapter() if system == "base model" else nullcontext():
            reports[system], generations[system] = score_records(
                model, tokenizer, records, separator=separator, max_source_length=arguments.max_source_length,
                batch_size=arguments.per_device_eval_batch_size, description=f"generating, {system}",
                protocol=arguments.protocol, metrics_beside=arguments.metrics, **arguments.decoding(),
            )  # fmt: skip
    scores = {system: report.scores for system, report in reports.items()}
    unavailable = {name: reason for report in reports.values() for name, reason in report.unavailable.items()}
    return Evaluation(arguments, scores, generations, records, signatures, unavailable)


def score_texts(arguments: ScoreArguments) -> metrics.Report:
    """Score the lines of a file, whatever wrote them.

    Raises:
        ValueError: a file without a text, or other counts of predictions and lists of references.
    """
    predictions, references = read_predictions(str(arguments.predictions)), read_answers(str(arguments.references))
    if len(predictions) != len(references):
        raise ValueError(
            f"{arguments.predictions} has {len(predictions)} lines and {arguments.references} {len(references)}; "
            "the predictions need one line for each line of references, empty where there is none."
        )
    return metrics.score(predictions, references, arguments.protocol, arguments.metrics, progress=True)


def explained(unavailable: Mapping[str, str]) -> list[str]:
    """One line for each reason: which scores it takes away."""
    reasons = dict.fromkeys(unavailable.values())
    return [
        f"Not available: {', '.join(name for name in unavailable if unavailable[name] == reason)}: {reason}."
        for reason in reasons
    ]


def score_records(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    separator: str | None,
    max_source_length: int | None = None,
    batch_size: int = 16,
    protocol: str = "plain",
    metrics_beside: Sequence[str] = (),
    **generation: Any,
) -> tuple[metrics.Report, list[str]]:
    """A protocol's scores (see `metrics.score`), the loss on first references too, and the texts that were scored.

    Ranks share the work.
    """
    texts = generate_texts(
        model, tokenizer, [record.source for record in records], separator=separator, batch_size=batch_size,
        max_source_length=max_source_length, **generation,
    )  # fmt: skip
    report = metrics.score(texts, [record.references for record in records], protocol, metrics_beside)
    report.scores["loss"] = loss_on(
        model, tokenizer, records, separator=separator, max_source_length=max_source_length, batch_size=batch_size
    )
    return report, texts


def loss_on(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    separator: str | None,
    max_source_length: int | None = None,
    batch_size: int = 16,
) -> float:
    """The loss on first references, in nats per token. Ranks share the work."""
    seq2seq = bool(model.config.is_encoder_decoder)
    pairs = encode_pairs(
        [(record.source, record.references[0]) for record in records], tokenizer, is_encoder_decoder=seq2seq,
        separator=None if seq2seq else separator, max_source_length=max_source_length,
    )  # fmt: skip
    collated = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=seq2seq)
    return mean_loss(model, shared_batches(pairs.examples, batch_size, collated), seq2seq)
