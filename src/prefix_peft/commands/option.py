"""An option of the command line, and which numbers it may be."""

from __future__ import annotations

from dataclasses import field
from typing import Any

LARGEST = 1e9  # of a number that is to be finite
RANGES: dict[str, Any] = {
    "learning_rate": (0, LARGEST),
    "num_train_epochs": (0, LARGEST),
    "warmup_ratio": (0, 1),
    "weight_decay": (0, LARGEST),
    "max_grad_norm": (0, LARGEST),
    "max_source_length": (1, LARGEST),
    "max_target_length": (1, LARGEST),
    "save_steps": (0, LARGEST),
    "save_total_limit": (1, LARGEST),
    "skip_nonfinite_steps": (0, LARGEST),
    "eval_steps": (0, LARGEST),
    "max_samples": (1, LARGEST),
    "length_penalty": (-LARGEST, LARGEST),
    "min_new_tokens": (0, LARGEST),
    "no_repeat_ngram_size": (0, LARGEST),
    "seed": (0, 2**32 - 1),  # numpy's
}


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A field of a dataclass of arguments, with what ``--help`` says of it."""
    return field(default=default, metadata={"help": text, **metadata})


def check_counts(arguments: Any, *names: str) -> None:
    """Refuse numbers below 1."""
    for name in names:
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}.")


def check_ranges(arguments: Any) -> None:
    """Refuse numbers outside of `RANGES`, and those that are none."""
    for name, (least, most) in RANGES.items():
        value = getattr(arguments, name, None)
        if value is not None and not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} must be from {least} to {most}, got {value}.")
