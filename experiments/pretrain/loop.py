"""The training loop: AdamW under a warm-up and a decay by the elapsed share of the budget."""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefix_peft.bars import bar
from prefix_peft.whole import whole_directory

from .batches import Batch, Stream
from .guide import Guide
from .loss import mean_loss, total_loss

WARM_UP = 0.05  # of the budget
GUIDED = 0.6  # of the budget, until when some heads are
SAVED_EVERY = 300.0  # seconds


@dataclass
class Budget:
    """Steps, or minutes of training; validation and saving are not counted."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.minutes) if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ValueError(f"give either steps or minutes, above 0; got steps={self.steps}, minutes={self.minutes}.")

    def share(self, step: int, seconds: float) -> float:
        """How much of it is spent, from 0 to 1."""
        return min(1.0, step / self.steps if self.steps else seconds / 60 / (self.minutes or 1.0))


@dataclass
class Training:
    """A base in training, with the held-out batches of each kind that it is judged by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stream: Stream
    guide: Guide
    held_out: dict[str, list[Batch]]
    output: Path
    budget: Budget
    learning_rate: float = 1e-3
    about: dict[str, Any] = field(default_factory=dict)  # for training.json
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    log: list[dict[str, float]] = field(default_factory=list)

    def finish(self) -> None:
        """Train until the budget is spent; the weights are saved every five minutes and at the end."""
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self._save()
        saved, share = 0.0, 0.0
        with bar(total=100, desc="training the base", unit="%", file=sys.stdout, mininterval=10) as shown:
            while share < 1:
                start = time.monotonic()
                loss, guided = self._step(optimizer, share)
                self.seconds += time.monotonic() - start
                share = self.budget.share(self.step, self.seconds)
                shown.update(round(100 * share) - shown.n)
                shown.set_postfix(step=self.step, loss=f"{loss:.2f}", guided=f"{guided:.2f}")
                if share == 1 or self.seconds - saved >= SAVED_EVERY:
                    self._save()
                    saved = self.seconds

    def _step(self, optimizer: torch.optim.Optimizer, share: float) -> tuple[float, float]:
        batch = self.stream.next(share)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * min((share + 1e-3) / WARM_UP, (1 - share) / (1 - WARM_UP))
        guide = self.guide if share < GUIDED else None
        total, count, guided = total_loss(self.model.train(), batch, guide)
        (total / count + guided).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        self.step += 1
        self.tokens += batch["input_ids"].numel() + self.model.config.is_encoder_decoder * batch["labels"].numel()
        return total.item() / count, float(torch.as_tensor(guided).detach())

    def _save(self) -> None:
        """Validate, then write weights in half precision, tokenizer and ``training.json``."""
        losses = {kind: mean_loss(self.model, batches) for kind, batches in self.held_out.items()}
        self.log.append({"step": self.step, "seconds": round(self.seconds, 1), "tokens": self.tokens} | losses)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_directory(self.output) as draft:
            copy.deepcopy(self.model).half().save_pretrained(draft)
            self.tokenizer.save_pretrained(draft)
            (draft / "training.json").write_text(json.dumps(self.about | {"validation": self.log}, indent=1) + "\n")
