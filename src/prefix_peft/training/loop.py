"""The training loop: a prefix, AdamW and Accelerate, small enough to read in one sitting."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from ..wrap import wrap
from .arguments import RunArguments, TrainArguments
from .batches import EncodedPairs, collate, encode_pairs, padding_id
from .checkpoints import Progress, last_checkpoint, load_checkpoint, save_checkpoint
from .evaluation import Loss, mean_loss, target_loss
from .models import load_base
from .results import Trained, write_results
from .tasks import load_task, read_jsonl, training_pairs

LENGTH_WINDOW = 50  # steps whose pairs are sorted together
GATE_LEARNING_RATE = 5e-2  # a gate is one number a head that has to travel from 0 to about 1


def train(arguments: TrainArguments) -> Trained:
    """Train a prefix, writing release, card, log and checkpoints to ``output_dir``.

    Raises:
        ValueError: data, arguments or checkpoint make no sense; said before training starts.
        FloatingPointError: the loss is no longer finite.
    """
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    set_seed(arguments.seed)
    base, tokenizer = load_base(arguments.model, arguments.bits)
    pairs, validation = _load_data(arguments, tokenizer, base.config.is_encoder_decoder)
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)  # what cannot be written to is said now
    model = wrap(
        base, arguments.num_virtual_tokens, prefix_projection=arguments.prefix_projection,
        encoder_hidden_size=arguments.encoder_hidden_size, prefix_dropout=arguments.prefix_dropout,
        num_frozen_tokens=arguments.num_frozen_tokens, gate=arguments.gate, init_text=arguments.init_text,
        tokenizer_name_or_path=arguments.model,
    )  # fmt: skip
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    progress = Run(arguments, accelerator, model, tokenizer, pairs, validation, target_loss).finish()
    data = f"{arguments.task or Path(str(arguments.train_file)).name}, {len(pairs):,} pairs"
    trained = Trained(model, tokenizer, progress, data)
    if accelerator.is_main_process:
        write_results(arguments, trained)
    return trained


class Run:
    """One training run, from whichever step it starts to its last."""

    def __init__(
        self,
        arguments: RunArguments,
        accelerator: Accelerator,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: EncodedPairs,
        validation: EncodedPairs | None,
        loss_of: Loss,
    ) -> None:
        self.loss_of = loss_of
        self.arguments, self.accelerator, self.pairs, self.validation = arguments, accelerator, pairs, validation
        self.seq2seq = bool(model.config.is_encoder_decoder)
        self.collate = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=self.seq2seq)
        pairs_a_step = (
            arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * accelerator.num_processes
        )
        self.steps_an_epoch = math.ceil(len(pairs) / pairs_a_step)
        self.pairs_a_step = pairs_a_step
        self.steps = arguments.max_steps
        if self.steps <= 0:
            self.steps = math.ceil(arguments.num_train_epochs * self.steps_an_epoch)
        self.plain = model
        optimizer = torch.optim.AdamW(self._groups(model), weight_decay=arguments.weight_decay)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.progress = self._resumed()
        warmup = round(self.steps * arguments.warmup_ratio)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.schedule = get_linear_schedule_with_warmup(optimizer, warmup, self.steps, self.progress.step - 1)

    def _groups(self, model: PeftModel) -> list[dict[str, Any]]:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        gates = [parameter for name, parameter in trained.items() if name.endswith("p_gate")]
        others = [parameter for name, parameter in trained.items() if not name.endswith("p_gate")]
        groups = [(others, self.arguments.learning_rate), (gates, GATE_LEARNING_RATE)]
        return [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters]

    def _resumed(self) -> Progress:
        wanted = self.arguments.resume_from_checkpoint
        if wanted is None:
            return Progress()
        output = Path(self.arguments.output_dir)
        directory = last_checkpoint(output) if wanted == "last" else Path(wanted)
        return load_checkpoint(directory, self.plain, self.optimizer, self.arguments)

    def finish(self) -> Progress:
        """Train from ``progress.step`` to the last step."""
        self.model.train()
        if self.progress.step == 0:
            self._log_validation()
        started, bar = time.monotonic() - self.progress.seconds, self._bar()
        for group in self._groups_of_batches():
            self._step(group, bar, started)
            if self.progress.step % (self.arguments.eval_steps or self.steps_an_epoch) == 0:
                self._log_validation()
            if self.arguments.save_steps and self.progress.step % self.arguments.save_steps == 0:
                self._save()
        bar.close()
        if self.progress.log and self.progress.log[-1].get("validation_loss") is None:
            self._log_validation()
        return self.progress

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.steps, initial=self.progress.step, desc="training the prefix", unit="step",
            disable=not self.accelerator.is_local_main_process, file=sys.stdout,
        )  # fmt: skip

    def _groups_of_batches(self) -> Iterator[list[dict[str, Tensor]]]:
        """The batches of each optimizer step still to come, in an order that depends on seed and epoch alone."""
        while self.progress.step < self.steps:
            epoch, done = divmod(self.progress.step, self.steps_an_epoch)
            generator = torch.Generator().manual_seed(self.arguments.seed + epoch)
            left = Subset(self.pairs, self._order(generator)[done * self.pairs_a_step :])
            size = self.arguments.per_device_train_batch_size
            loader = self.accelerator.prepare(DataLoader(left, size, collate_fn=self.collate, generator=generator))
            batches = iter(loader)
            while self.progress.step < self.steps and (
                group := list(islice(batches, self.arguments.gradient_accumulation_steps))
            ):
                yield group

    def _order(self, generator: torch.Generator) -> list[int]:
        """A random order of the pairs; grouped by length, the pairs of one step come from a window of like ones."""
        order = torch.randperm(len(self.pairs), generator=generator).tolist()
        if not self.arguments.group_by_length:
            return order
        window = self.pairs_a_step * LENGTH_WINDOW
        by_length = [
            pair
            for start in range(0, len(order), window)
            for pair in sorted(order[start : start + window], key=lambda pair: len(self.pairs[pair]["input_ids"]))
        ]
        steps = [by_length[start : start + self.pairs_a_step] for start in range(0, len(order), self.pairs_a_step)]
        whole, rest = (steps[:-1], steps[-1]) if len(steps[-1]) < self.pairs_a_step else (steps, [])
        shuffled = torch.randperm(len(whole), generator=generator).tolist()
        return [pair for i in shuffled for pair in whole[i]] + rest

    def _step(self, group: list[dict[str, Tensor]], bar: tqdm, started: float) -> None:
        """One optimizer step: the mean loss over all target tokens of the step, on all devices."""
        accelerator, total = self.accelerator, torch.zeros((), device=self.accelerator.device)
        tokens = torch.stack([self._count(batch) for batch in group]).sum()
        tokens: Any = accelerator.reduce(tokens, reduction="sum")
        rate = float(self.schedule.get_last_lr()[0])
        for last, batch in [(batch is group[-1], batch) for batch in group]:
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    loss, _ = self.loss_of(self.model, batch, self.seq2seq)
                accelerator.backward(loss * (accelerator.num_processes / tokens))
            total += loss.detach()
        summed: Any = accelerator.reduce(total, reduction="sum")
        mean = float(summed / tokens)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} at step {self.progress.step + 1}; lower --learning-rate.")
        accelerator.clip_grad_norm_(self._trained(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        seconds = time.monotonic() - started
        seen = sum(int(batch["attention_mask"].sum()) for batch in group) * accelerator.num_processes
        speed = seen / max(seconds - self.progress.seconds, 1e-9)
        self.progress.seconds = seconds
        bar.set_postfix(loss=f"{mean:.3f}", lr=f"{rate:.1e}", tokens_per_second=f"{speed:.0f}", refresh=False)
        bar.update()
        if self.progress.step % self.arguments.logging_steps == 0 or self.progress.step == self.steps:
            self.progress.log.append({"step": self.progress.step, "loss": mean, "learning_rate": rate})

    def _count(self, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["labels"] if self.seq2seq else batch["labels"][:, 1:]
        return (labels >= 0).sum()

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _log_validation(self) -> None:
        if self.validation is None:
            return
        with self.accelerator.autocast():
            loss = mean_loss(self.model, self.validation_batches(), self.seq2seq, self.loss_of)
        self.progress.log.append({"step": self.progress.step, "validation_loss": loss})

    def validation_batches(self) -> Iterator[dict[str, Tensor]]:
        """The batches on which the validation loss is measured, on the device of the model; none without such data."""
        if self.validation is not None:
            size = self.arguments.per_device_eval_batch_size
            for batch in DataLoader(self.validation, size, collate_fn=self.collate):
                yield {key: value.to(self.accelerator.device) for key, value in batch.items()}

    def _save(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            save_checkpoint(self.plain, self.optimizer, self.progress, self.arguments)


def _load_data(
    arguments: TrainArguments, tokenizer: PreTrainedTokenizerBase, seq2seq: bool
) -> tuple[EncodedPairs, EncodedPairs | None]:
    if arguments.task is not None:
        assert arguments.data_dir is not None  # check_task saw to it
        records = load_task(arguments.task, arguments.data_dir, "train")
        held_out = load_task(arguments.task, arguments.data_dir, "validation")
    else:
        records = read_jsonl(str(arguments.train_file))
        held_out = read_jsonl(arguments.validation_file) if arguments.validation_file else []
    encode = partial(
        encode_pairs, tokenizer=tokenizer, is_encoder_decoder=seq2seq, separator=arguments.separator,
        max_source_length=arguments.max_source_length, max_target_length=arguments.max_target_length,
    )  # fmt: skip
    pairs = encode(training_pairs(records))
    validation = encode([(record.source, record.references[0]) for record in held_out]) if held_out else None
    for name, encoded in (("training", pairs), ("validation", validation)):
        if encoded is not None and encoded.truncated:
            print(f"{encoded.truncated} of {len(encoded)} {name} pairs are longer than the model reads and were cut.")
    return pairs, validation
