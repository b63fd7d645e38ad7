"""Settings: what may be turned of a method."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prefix_peft.values import check_count

HALVES = ("lower", "upper")


@dataclass(frozen=True)
class Settings:
    """What may be turned; each method reads what concerns it.

    Raises:
        ValueError: a number out of its range.
        TypeError: no whole number where one is needed.
    """

    num_virtual_tokens: int = 10  # P of prefixes, prompts and the infix
    encoder_hidden_size: int = 512  # width of the MLP of a reparametrised prefix
    latent_size: int = 64  # numbers per virtual token of which a shared prefix is made
    memory_rank: int | None = None  # of a decoupled prefix; None: any
    bottleneck: int = 32  # width of an adapter
    rank: int = 4  # of LoRA
    init_text: str | None = None  # words with which prefixes and prompts start
    init_examples: bool = False  # or they start from training pairs, as many as fit
    random_numbers: bool = False  # our prefixes start from N(0, 1), as in the paper's code, in place of real tokens
    tokenizer_name_or_path: str | None = None  # what reads them; None: the base's own
    sites: tuple[str, ...] | None = None  # of our prefixes: 'encoder', 'decoder', 'cross'
    layers: str | None = None  # only the 'lower' or the 'upper' half of them
    gate: bool | str = False
    num_frozen_tokens: int = 0
    prefix_dropout: float = 0.0
    key_scale: float = 1.0  # a prefix's keys move so many times as fast as the learning rate says,
    value_scale: float = 1.0  # and its values,
    relative_scale: bool = False  # times the root mean square with which the keys, or values, of each site start
    seed: int = 0  # of the random start

    def __post_init__(self) -> None:
        for name in ("num_virtual_tokens", "encoder_hidden_size", "latent_size", "bottleneck", "rank"):
            check_count(name, getattr(self, name))
        if self.memory_rank is not None:
            check_count("memory_rank", self.memory_rank)
        for name in ("num_frozen_tokens", "seed"):
            check_count(name, getattr(self, name), least=0)
        for name in ("key_scale", "value_scale"):
            if not 0 < (scale := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {scale}; 1 leaves the learning rate as it is.")
        if self.layers is not None and self.layers not in HALVES:
            raise ValueError(f"unknown layers {self.layers!r}; choose from {list(HALVES)}, or leave it out for all.")
