"""Score a trained prefix on a data set: loss on the targets, BLEU and chrF of what the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from . import metrics
from .arguments import EvaluateArguments
from .batches import collate, encode_pairs, padding_id
from .evaluation import generate_texts, mean_loss
from .models import load_prefix, recall_separator
from .sharing import shared_batches
from .tasks import Record, load_task, read_jsonl

Scores = dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores by system, what each system wrote, and everything needed to do it again."""

    arguments: EvaluateArguments
    scores: dict[str, Scores]
    generations: dict[str, list[str]]
    records: list[Record]
    signatures: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: arguments, scores, sacrebleu's signatures, and one object for each record."""
        rows = [
            {"source": record.source, "references": list(record.references)}
            | {system: texts[i] for system, texts in self.generations.items()}
            for i, record in enumerate(self.records)
        ]
        return {
            "arguments": asdict(self.arguments), "scores": self.scores, "signatures": self.signatures, "records": rows,
        }  # fmt: skip


def evaluate(arguments: EvaluateArguments) -> Evaluation:
    """Load model and prefix, score them on the data that ``arguments`` names."""
    if arguments.task is not None:
        records = load_task(arguments.task, str(arguments.data_dir), arguments.split)
    else:
        records = read_jsonl(str(arguments.data_file))
    records = records[: arguments.max_samples]
    signatures = metrics.signatures([record.references for record in records])  # first: it needs sacrebleu
    model, tokenizer = load_prefix(arguments.model, arguments.adapter, arguments.bits, arguments.dtype)
    separator = recall_separator(arguments.adapter, arguments.separator)
    scores, generations = {}, {}
    for system in ["base model", "with prefix"] if arguments.without_prefix else ["with prefix"]:
        with model.disable_adapter() if system == "base model" else nullcontext():
            scores[system], generations[system] = score_records(
                model, tokenizer, records, separator=separator, num_beams=arguments.num_beams,
                max_new_tokens=arguments.max_new_tokens, max_source_length=arguments.max_source_length,
                batch_size=arguments.per_device_eval_batch_size, description=f"generating, {system}",
            )  # fmt: skip
    return Evaluation(arguments, scores, generations, records, signatures)


def score_records(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    *,
    separator: str | None,
    max_source_length: int | None = None,
    batch_size: int = 16,
    **generation: Any,
) -> tuple[Scores, list[str]]:
    """BLEU, chrF and the loss on first references, and the texts that were scored. Ranks share the work."""
    seq2seq = bool(model.config.is_encoder_decoder)
    texts = generate_texts(
        model, tokenizer, [record.source for record in records], separator=separator, batch_size=batch_size,
        max_source_length=max_source_length, **generation,
    )  # fmt: skip
    pairs = encode_pairs(
        [(record.source, record.references[0]) for record in records], tokenizer, is_encoder_decoder=seq2seq,
        separator=None if seq2seq else separator, max_source_length=max_source_length,
    )  # fmt: skip
    collated = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=seq2seq)
    loss = mean_loss(model, shared_batches(pairs.examples, batch_size, collated), seq2seq)
    return metrics.score(texts, [record.references for record in records]) | {"loss": loss}, texts
