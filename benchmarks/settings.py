"""What is measured, and on what model."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One training step: ``batch`` texts of ``length`` tokens behind a prefix of ``prefix``; written '8x128+20'."""

    batch: int
    length: int
    prefix: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}+{self.prefix}"

    @classmethod
    def parse(cls, text: str) -> Step:
        """The inverse of ``str``; ``argparse.ArgumentTypeError`` for anything else."""
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)\+([1-9]\d*)", text)
        if match is None:
            raise ArgumentTypeError(f"expected BATCHxLENGTH+PREFIX such as 8x128+20, got {text!r}.")
        return cls(*map(int, match.groups()))


@dataclass(frozen=True)
class Settings:
    """The defaults are small enough for two cores; the vocabulary is small so that no output layer hides the rest."""

    layers: int = 6
    width: int = 512
    heads: int = 8
    key_value_heads: int = 4
    intermediate_size: int = 1376
    vocabulary: int = 4096
    device: str = "cpu"
    dtype: str = "float32"
    batches: tuple[int, ...] = (1, 8, 32)
    prefixes: tuple[int, ...] = (20, 1024, 2048)
    steps: tuple[Step, ...] = (Step(8, 128, 20), Step(4, 512, 20), Step(8, 128, 512))
    rows: int = 16  # as many different prefixes in one batch
    row_prefix: int = 64
    prompt: int = 128
    tokens: int = 16
    rounds: int = 10
    compile: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        for many, few in (("width", "heads"), ("heads", "key_value_heads")):
            if getattr(self, many) % getattr(self, few):
                raise ValueError(f"{many} {getattr(self, many)} is no multiple of {few} {getattr(self, few)}.")


QUICK: dict[str, Any] = {
    "layers": 2,
    "width": 32,
    "heads": 4,
    "key_value_heads": 2,
    "intermediate_size": 40,
    "vocabulary": 64,
    "batches": (1, 2),
    "prefixes": (3,),
    "steps": (Step(2, 8, 3),),
    "rows": 2,
    "row_prefix": 3,
    "prompt": 8,
    "tokens": 3,
    "rounds": 2,
}
SIZES: dict[str, dict[str, Any]] = {  # the shapes of Llama 3.2
    "1b": {
        "layers": 16,
        "width": 2048,
        "heads": 32,
        "key_value_heads": 8,
        "intermediate_size": 8192,
        "vocabulary": 128256,
    },
    "3b": {
        "layers": 28,
        "width": 3072,
        "heads": 24,
        "key_value_heads": 8,
        "intermediate_size": 8192,
        "vocabulary": 128256,
    },
}
