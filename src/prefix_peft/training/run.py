"""One run, step by step: AdamW and Accelerate on the prefix alone, small enough to read in one sitting."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from ..bars import bar
from ..commands.arguments import RunArguments
from ..data.batches import EncodedPairs, collate, padding_id
from ..evaluation.loss import Loss, mean_loss
from ..ranks.place import prepare, synchronized
from ..ranks.sharing import Example, shared_batches, summed
from ..whole import sweep
from .checkpoints import Progress, checkpoint_to_resume, load_checkpoint, place_of, save_checkpoint
from .interrupts import Interrupted, Interrupts
from .nonfinite import BadStep, is_finite, is_overflow
from .order import order_by_length, order_of_epoch

GATE_LEARNING_RATE = 5e-2  # a gate is one number a head that has to travel from 0 to about 1


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
        self.loss_of: Loss = loss_of
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.arguments: RunArguments = arguments
        self.accelerator: Accelerator = accelerator
        self.pairs: EncodedPairs = pairs
        self.validation: EncodedPairs | None = validation
        self.seq2seq: bool = bool(model.config.is_encoder_decoder)
        self.collate: Callable[..., dict[str, Any]] = partial(
            collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=self.seq2seq
        )
        pairs_a_step = (
            arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * accelerator.num_processes
        )
        self.steps_an_epoch: int = math.ceil(len(pairs) / pairs_a_step)
        self.pairs_a_step = pairs_a_step
        self.steps: int = arguments.max_steps
        if self.steps <= 0:
            self.steps = math.ceil(arguments.num_train_epochs * self.steps_an_epoch)
        self.plain = model
        optimizer = torch.optim.AdamW(self._groups(model), weight_decay=arguments.weight_decay)
        self.model: Any
        self.optimizer: Any
        self.model, self.optimizer = prepare(accelerator, model, optimizer)
        self.progress: Progress = self._resumed()

    def _groups(self, model: PeftModel) -> list[dict[str, Any]]:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        gates = [parameter for name, parameter in trained.items() if name.endswith("p_gate")]
        others = [parameter for name, parameter in trained.items() if not name.endswith("p_gate")]
        groups = [(others, self.arguments.learning_rate), (gates, GATE_LEARNING_RATE)]
        return [{"params": parameters, "lr": rate, "peak_lr": rate} for parameters, rate in groups if parameters]

    def _set_learning_rate(self) -> float:
        """For the next step: it rises over the warm-up, then falls to 0. Returns that of most parameters."""
        step, warmup = self.progress.step, round(self.steps * self.arguments.warmup_ratio)
        share = step / warmup if step < warmup else max(0.0, (self.steps - step) / max(1, self.steps - warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        return self.optimizer.param_groups[0]["lr"]

    def _resumed(self) -> Progress:
        output = Path(self.arguments.output_dir)
        if self.accelerator.is_main_process:
            sweep(output)
        self.accelerator.wait_for_everyone()
        directory, progress = checkpoint_to_resume(self.arguments), Progress()
        if directory is not None:
            progress = load_checkpoint(directory, self.plain, self.optimizer, self.arguments)
        elif self.arguments.resume_from_checkpoint is not None and self.accelerator.is_main_process:
            print(f"{output} holds no checkpoint yet, so the run starts anew.")
        progress.place = place_of(output)
        return progress

    def finish(self) -> Progress:
        """Train from ``progress.step`` to the last step."""
        self.model.train()
        if self.progress.step == 0:
            self._log_validation()
        started, shown = time.monotonic() - self.progress.seconds, self._bar()
        with Interrupts() as interrupts, shown:
            for pairs in self._pairs_of_steps():
                self._step(pairs, shown, started)
                if self.progress.step % (self.arguments.eval_steps or self.steps_an_epoch) == 0:
                    self._log_validation()
                self._save_if_due(interrupts.agreed(self.accelerator))
            if self.progress.log and self.progress.log[-1].get("validation_loss") is None:
                self._log_validation()
                self._save_if_due(interrupts.agreed(self.accelerator), is_step=False)
        return self.progress

    def _bar(self) -> tqdm:
        return bar(
            total=self.steps, initial=self.progress.step, desc="training the prefix", unit="step", file=sys.stdout
        )

    def _pairs_of_steps(self) -> Iterator[list[int]]:
        """The pairs of each step still to come, by number, in an order that depends on seed and epoch alone."""
        while self.progress.step < self.steps:
            epoch, done = divmod(self.progress.step, self.steps_an_epoch)
            order = self._order(epoch)
            for start in range(done * self.pairs_a_step, len(order), self.pairs_a_step):
                yield order[start : start + self.pairs_a_step]
                if self.progress.step == self.steps:
                    return

    def _order(self, epoch: int) -> list[int]:
        seed = self.arguments.seed + epoch
        if not self.arguments.group_by_length:
            return order_of_epoch(len(self.pairs), seed)
        return order_by_length([len(pair["input_ids"]) for pair in self.pairs.examples], self.pairs_a_step, seed)

    def _step(self, pairs: list[int], shown: tqdm, started: float) -> None:
        """One optimizer step, or none where its gradients are not finite."""
        rate = self._set_learning_rate()
        examples = [self.pairs[pair] for pair in pairs]
        mean, norm = self._gradients(examples)
        while is_overflow(self.accelerator, mean, norm):
            self._discard_gradients()
            mean, norm = self._gradients(examples)
        finite = is_finite(mean, norm)
        if finite:
            self.optimizer.step()
        else:
            if math.isfinite(mean):
                self._discard_gradients()
            self._skip(pairs, mean, norm, shown)
        self.optimizer.zero_grad()
        self.progress.step += 1
        seconds = time.monotonic() - started
        seen = sum(len(example["input_ids"]) for example in examples)
        speed = seen / max(seconds - self.progress.seconds, 1e-9)
        self.progress.seconds = seconds
        shown.set_postfix(loss=f"{mean:.3f}", lr=f"{rate:.1e}", tokens_per_second=f"{speed:.0f}", refresh=False)
        shown.update()
        due = self.progress.step % self.arguments.logging_steps == 0 or self.progress.step == self.steps
        if due and finite:
            self.progress.log.append({"step": self.progress.step, "loss": mean, "learning_rate": rate})

    def _gradients(self, examples: list[Example]) -> tuple[float, float]:
        """Of the objective: the mean loss over all target tokens, or sentences, of a step, which the ranks share.

        Returns the loss by token, and the norm of the gradient before it is clipped. Where the loss is not finite no
        backward pass comes to its end, for DeepSpeed's takes the step as well.
        """
        accelerator, total = self.accelerator, torch.zeros((), device=self.accelerator.device)
        tokens = sum(map(self._count, examples))
        parts = len(examples) if self.arguments.objective == "sentence_sum" else tokens
        batches = list(shared_batches(examples, self.arguments.per_device_train_batch_size, self.collate))
        for batch in batches:
            with synchronized(accelerator, self.model, batch is batches[-1]):
                with accelerator.autocast():
                    loss, _ = self.loss_of(self.model, batch, self.seq2seq)
                total += loss.detach()
                mean = summed(float(total))[0] / tokens if batch is batches[-1] else 0.0
                if not math.isfinite(mean):
                    return mean, math.nan
                accelerator.backward(loss * (accelerator.num_processes / parts))
        norm: Any = accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
        return mean, 0.0 if norm is None else float(norm)

    def _discard_gradients(self) -> None:
        self.optimizer.zero_grad()
        self.optimizer.step()  # changes nothing but fp16's scale, which has seen the gradients

    def _skip(self, pairs: list[int], loss: float, norm: float, shown: tqdm) -> None:
        """Pass over a step, or stop; every rank comes to the same."""
        suspects = [pair for pair in pairs if not math.isfinite(loss) and not math.isfinite(self._loss_on(pair))]
        taken = self.accelerator.distributed_type == DistributedType.DEEPSPEED and math.isfinite(loss)
        bad, kept = BadStep(self.progress.step + 1, loss, norm, pairs, suspects, taken), ""
        if self.accelerator.is_main_process:
            kept = bad.keep(self.pairs, self.tokenizer, Path(self.arguments.output_dir))
        shown.write(bad.skip(self.arguments, self.progress, kept), file=sys.stdout)

    @torch.no_grad()
    def _loss_on(self, pair: int) -> float:
        batch = {key: value.to(self.accelerator.device) for key, value in self.collate([self.pairs[pair]]).items()}
        with self.accelerator.autocast():
            return float(self.loss_of(self.model, batch, self.seq2seq)[0])

    def _count(self, pair: Example) -> int:
        labels = pair["labels"] if self.seq2seq else pair["labels"][1:]
        return sum(label >= 0 for label in labels)

    def _log_validation(self) -> None:
        if self.validation is None:
            return
        with self.accelerator.autocast():
            loss = mean_loss(self.model, self.validation_batches(), self.seq2seq, self.loss_of)
        self.progress.log.append({"step": self.progress.step, "validation_loss": loss})

    def validation_batches(self) -> Iterator[dict[str, Tensor]]:
        """This rank's batches of those on which the validation loss is measured; none without such data."""
        if self.validation is not None:
            size = self.arguments.per_device_eval_batch_size
            yield from shared_batches(self.validation.examples, size, self.collate)

    def _save_if_due(self, interrupted: int, is_step: bool = True) -> None:
        """Write a checkpoint where this step has one, or where a signal (its number, or 0) asks to stop."""
        due = is_step and self.arguments.save_steps and self.progress.step % self.arguments.save_steps == 0
        if due or interrupted:
            self.accelerator.wait_for_everyone()
            save_checkpoint(self.plain, self.optimizer, self.progress, self.arguments)
            self.accelerator.wait_for_everyone()
            self.progress.checkpoint = Path(self.arguments.output_dir, f"checkpoint-{self.progress.step}")
            if interrupted:
                raise Interrupted(interrupted, self.progress.step, self.progress.checkpoint)
