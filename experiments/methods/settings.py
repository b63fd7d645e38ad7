"""Settings: what may be turned of a method."""

from __future__ import annotations

from dataclasses import dataclass

from prefix_peft.values import check_count


@dataclass(frozen=True)
class Settings:
    """What may be turned; each method reads what concerns it.

    Raises:
        ValueError: a number out of its range.
        TypeError: no whole number where one is needed.
    """

    num_virtual_tokens: int = 10  # P of prefixes, prompts and the infix
    encoder_hidden_size: int = 512  # width of the MLP of a reparametrised prefix
    bottleneck: int = 32  # width of an adapter
    rank: int = 4  # of LoRA
    init_text: str | None = None  # words with which prefixes and prompts start
    random_numbers: bool = False  # our prefixes start from N(0, 1), as in the paper's code, in place of real tokens
    tokenizer_name_or_path: str | None = None  # what reads them; None: the base's own
    sites: tuple[str, ...] | None = None  # of our prefixes: 'encoder', 'decoder', 'cross'
    gate: bool | str = False
    num_frozen_tokens: int = 0
    seed: int = 0  # of the random start

    def __post_init__(self) -> None:
        for name in ("num_virtual_tokens", "encoder_hidden_size", "bottleneck", "rank"):
            check_count(name, getattr(self, name))
        for name in ("num_frozen_tokens", "seed"):
            check_count(name, getattr(self, name), least=0)
