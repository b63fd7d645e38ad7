"""Steps whose loss or gradient is not finite. They never touch the prefix: they are repeated, skipped or stopped at.

With fp16 a gradient may only be too large for the scale that Accelerate multiplies it by. Then the scale is lowered and
the same step repeated, so that no pair is lost. Anything else is divergence or a bad pair.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ..commands.arguments import RunArguments
from ..data.batches import EncodedPairs
from ..whole import write_text
from .checkpoints import Progress

SMALLEST_SCALE = 1.0  # below it fp16's gradients would be made smaller than they are
SHOWN = 8  # pairs in a message


def is_finite(loss: float, norm: float) -> bool:
    """Whether a step may be taken, by its loss and the norm of its gradient."""
    return math.isfinite(loss) and math.isfinite(norm)


def is_overflow(accelerator: Accelerator, loss: float, norm: float) -> bool:
    """Whether only the gradient is not finite and fp16's scale can still be lowered."""
    scaler = accelerator.scaler
    too_large = scaler is not None and scaler.get_scale() > SMALLEST_SCALE
    return too_large and math.isfinite(loss) and not math.isfinite(norm)


@dataclass(frozen=True)
class BadStep:
    """An optimizer step that must not be taken."""

    step: int  # from 1
    loss: float
    norm: float  # of its gradient
    pairs: Sequence[int]  # what it read: numbers of training pairs, from 0
    suspects: Sequence[int]  # those of them whose loss alone is not finite
    taken: bool = False  # all the same, by a backward pass that takes the step as well (DeepSpeed's)

    def skip(self, arguments: RunArguments, progress: Progress, kept: str) -> str:
        """Log that the step is skipped, and say so.

        Raises:
            FloatingPointError: no skipping was asked for, or as many steps before this one were skipped.
        """
        if not self.taken and _skipped_in_a_row(progress) < arguments.skip_nonfinite_steps:
            progress.log.append({"step": self.step, "skipped": list(self.suspects or self.pairs)})
            return f"{self}, so it is skipped.{kept}"
        left = (
            "DeepSpeed took it all the same, and the prefix is spoilt"
            if self.taken
            else "The prefix is as it was before"
        )
        raise FloatingPointError(
            f"{self}; lower --learning-rate, or let --skip-nonfinite-steps pass over a few.{kept} {left}. "
            f"{progress.last_good()}"
        )

    def keep(self, pairs: EncodedPairs, tokenizer: PreTrainedTokenizerBase, output: Path) -> str:
        """Write the pairs into a file, to look at, and say where; a disk that is full is no reason to say less."""
        rows = [pairs[number] | {"pair": number, "suspect": number in self.suspects} for number in self.pairs]
        rows = [row | {"text": tokenizer.decode(row["input_ids"])} for row in rows]
        facts = {"step": self.step, "loss": str(self.loss), "gradient_norm": str(self.norm), "pairs": rows}
        path = output / f"nonfinite-step-{self.step}.json"
        try:
            write_text(path, json.dumps(facts, indent=1, ensure_ascii=False))
        except OSError:
            return ""
        return f" The pairs are in {path}."

    def __str__(self) -> str:
        fault = f"the loss is {self.loss}" if not math.isfinite(self.loss) else f"the gradient's norm is {self.norm}"
        named = self.suspects or self.pairs
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        listed = ", ".join(map(str, named[:SHOWN])) + more
        return f"{fault} at step {self.step}, on the training pairs {listed} (the first is 0)"


def _skipped_in_a_row(progress: Progress) -> int:
    """How many steps before this one were skipped; from the log, so that a resumed run counts on."""
    skipped, count = {entry["step"] for entry in progress.log if "skipped" in entry}, 0
    while progress.step - count in skipped:
        count += 1
    return count
