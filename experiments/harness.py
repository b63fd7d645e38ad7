"""Run a cell: one loop, one order of the data, one decoding and one set of metrics for every method."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import machine
from prefix_peft.commands.arguments import RunArguments
from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import encode_pairs
from prefix_peft.data.records import Record
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.evaluation.scoring import loss_on, score_records
from prefix_peft.ranks.place import begin
from prefix_peft.training.examples import start_from_pairs
from prefix_peft.training.run import Run

from .cell import Cell, Result
from .data import pairs_of, protocol_of, records_of
from .methods import METHODS, Settings, count_at, size_at, trained_parameters

SAMPLES = 8  # texts of each split that are kept to be looked at
LONGEST_SOURCE = 400  # tokens; a paper's abstract is longer than the small bases read
LONGEST_TARGET = 100


@dataclass(frozen=True)
class Place:
    """Where a cell is run."""

    data_dir: Path
    mixed_precision: str = "bf16"


class Loop(Run):
    """The loop of ``prefix-peft train`` for any method. What is kept is a cell's result, so it writes no checkpoint."""

    def _save_if_due(self, interrupted: int, is_step: bool = True) -> None:
        if interrupted:
            raise KeyboardInterrupt(f"signal {interrupted}")


def run(cell: Cell, experiment: str, place: Place, learning_rate: float) -> Result:
    """Train and judge a cell.

    Raises:
        ValueError: an unknown method or task, or a request that the method cannot fulfil.
        FileNotFoundError: the task's files are not there.
    """
    if cell.method not in METHODS:
        raise ValueError(f"unknown method {cell.method!r}; choose from {sorted(METHODS)}.")
    judged = {split: records_of(cell, place.data_dir, split) for split in cell.splits}
    base, tokenizer = load_base(cell.base)
    size = base.num_parameters()
    with TemporaryDirectory() as scratch:
        arguments = RunArguments(
            output_dir=scratch, learning_rate=learning_rate, seed=cell.seed,
            num_train_epochs=cell.epochs or 1, max_steps=-1 if cell.epochs else max(cell.steps, 1),
            per_device_train_batch_size=cell.batch_size, group_by_length=True, objective=cell.objective,
            mixed_precision=place.mixed_precision, logging_steps=max(cell.steps // 10, 1),
        )  # fmt: skip
        accelerator = begin(arguments)
        if accelerator.device.type == "cpu" and place.mixed_precision == "bf16":
            base.set_attn_implementation("eager")  # sdpa's backward pass takes up to five times as long
        model = prepared(cell, base)
        start = time.monotonic()
        if cell.steps and trained_parameters(model):
            pairs = encode_pairs(
                pairs_of(cell, place.data_dir), tokenizer, **_form(cell, base), max_source_length=LONGEST_SOURCE,
                max_target_length=LONGEST_TARGET,
            )  # fmt: skip
            if cell.value("init_examples"):
                start_from_pairs(model, pairs, cell.seed)
            loss = METHODS[cell.method].adapt_loss(target_loss)
            Loop(arguments, accelerator, model, tokenizer, pairs, None, loss).finish()
        seconds = time.monotonic() - start
        with accelerator.autocast():
            scores, samples = judge(cell, model.eval(), tokenizer, judged)
    return Result(
        cell, experiment, trained_parameters(model), size, learning_rate, round(seconds, 1), scores, samples,
        _made_on(place),
    )  # fmt: skip


def prepared(cell: Cell, base: PreTrainedModel) -> nn.Module:
    """The base, made trainable by the cell's method at the cell's size."""
    method = METHODS[cell.method]
    settings = Settings(**dict(cell.knobs), seed=cell.seed, tokenizer_name_or_path=cell.base)
    if cell.as_prefix or cell.share:
        settings = size_at(method, base, _budget(cell, base), settings)
    return method.prepare(base, settings)


def _budget(cell: Cell, base: PreTrainedModel) -> int:
    if cell.share:
        return round(cell.share * base.num_parameters())
    return count_at(METHODS["prefix"], base, Settings(num_virtual_tokens=cell.as_prefix or 0))


def judge(
    cell: Cell, model: Any, tokenizer: PreTrainedTokenizerBase, records: dict[str, list[Record]]
) -> tuple[dict[str, dict[str, float]], dict[str, list[list[str]]]]:
    """Scores and the first few texts, by split."""
    scores, samples = {}, {}
    reading = {"separator": _form(cell, model)["separator"], "max_source_length": LONGEST_SOURCE, "batch_size": 32}
    for split, of_split in records.items():
        if not cell.num_beams:
            scores[split] = {"loss": loss_on(model, tokenizer, of_split, **reading)}
            continue
        report, texts = score_records(
            model, tokenizer, of_split, **reading, protocol=protocol_of(cell.task), num_beams=cell.num_beams,
            max_new_tokens=cell.max_new_tokens, length_penalty=cell.length_penalty, description=f"writing, {split}",
        )  # fmt: skip
        scores[split] = report.scores
        samples[split] = [[record.source, text] for record, text in zip(of_split, texts[:SAMPLES], strict=False)]
    return scores, samples


def _form(cell: Cell, model: Any) -> dict[str, Any]:
    seq2seq = bool(model.config.is_encoder_decoder)
    return {"is_encoder_decoder": seq2seq, "separator": None if seq2seq else cell.separator}


def _made_on(place: Place) -> dict[str, object]:
    found = machine.describe("cpu")
    described = {key: found[key] for key in ("processor", "threads", *machine.PACKAGES)}
    return described | {"mixed_precision": place.mixed_precision}
