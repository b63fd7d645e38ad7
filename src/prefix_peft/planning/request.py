"""What is asked of a plan."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from transformers import PretrainedConfig

from ..config import DTYPES

BITS = (8, 4)
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # Accelerate's names


@dataclass(frozen=True)
class Request:
    """One way of training a prefix and of decoding with it.

    Raises:
        ValueError: a number below 1, an unknown dtype, or two requests that contradict each other.
    """

    batch_size: int = 8  # B
    sequence_length: int = 512  # T, of an encoder-decoder's source
    target_length: int | None = None  # of an encoder-decoder's target; T where left out
    max_new_tokens: int = 100
    num_virtual_tokens: int = 20  # P
    prefix_projection: bool = False
    encoder_hidden_size: int = 512
    dtype: str = "float32"  # of the frozen weights
    mixed_precision: str = "no"
    bits: int | None = None  # of each number of a quantized linear layer
    gradient_checkpointing: bool = False
    every_weight: bool = False  # full fine-tuning, for comparison

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "bits" and isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise ValueError(f"--{field.name.replace('_', '-')} must be at least 1, got {value}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown --dtype {self.dtype!r}; choose from {list(DTYPES)}.")
        if self.mixed_precision not in ("no", *HALF):
            raise ValueError(f"unknown --mixed-precision {self.mixed_precision!r}; choose from {['no', *HALF]}.")
        if self.bits not in (None, *BITS):
            raise ValueError(f"weights have 8 or 4 bits, got {self.bits}.")

    def check_fits(self, config: PretrainedConfig) -> None:
        """Refuse texts that this model cannot read.

        Raises:
            ValueError: a source, or a text with what is written behind it, is longer than the model's context.
        """
        limit: Any = getattr(config.get_text_config(), "max_position_embeddings", None)
        lengths = {"--sequence-length": self.sequence_length}
        if config.is_encoder_decoder:
            lengths |= {"--target-length": self.targets, "--max-new-tokens": self.max_new_tokens}
        else:
            lengths["--sequence-length plus --max-new-tokens"] = self.sequence_length + self.max_new_tokens
        for what, length in lengths.items():
            if limit and 0 < limit < length:  # XLNet says -1, for any
                raise ValueError(f"{what} is {length} tokens, and {config.model_type} reads {limit}; ask for fewer.")

    def folded(self) -> Request:
        """Without the MLP, as a release is."""
        return replace(self, prefix_projection=False)

    @property
    def targets(self) -> int:
        """Tokens of an encoder-decoder's target."""
        return self.target_length or self.sequence_length

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the frozen weights that are not quantized."""
        return getattr(torch, self.dtype)

    def __str__(self) -> str:
        parts = [self.dtype, f"{self.bits}-bit weights" if self.bits else ""]
        parts += [f"mixed precision {self.mixed_precision}" if self.mixed_precision != "no" else ""]
        parts += ["checkpointing" if self.gradient_checkpointing else "", "every weight" if self.every_weight else ""]
        return ", ".join(part for part in parts if part)
