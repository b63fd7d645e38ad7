"""Where a case's choices come from: a seed, hypothesis (which makes a fault small), or bytes that atheris sends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Choices, each made by ``below(n)``: one of 0..n-1, 0 being the plainest."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self.below = below

    def between(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return least + self.below(max(most - least, 0) + 1)

    def pick(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.below(len(choices))]

    def once_in(self, n: int) -> bool:
        """Seldom true."""
        return self.below(n) == n - 1

    def blob(self, most: int) -> bytes:
        """Up to so many bytes."""
        return bytes(self.below(256) for _ in range(self.between(0, most)))

    def text(self, most: int) -> str:
        """Up to so many characters of any kind, halves of surrogate pairs too."""
        ranges = [(32, 126), (0, 31), (127, 0x2FFF), (0xD800, 0xDFFF), (0x10000, 0x10FFFF)]
        return "".join(chr(self.between(*self.pick(ranges))) for _ in range(self.between(0, most)))


def seeded(seed: int) -> Dice:
    """The same choices each time."""
    return Dice(random.Random(seed).randrange)


def from_bytes(data: bytes) -> Dice:
    """One choice for every two bytes; the plainest ones when they are used up."""
    pairs = iter(zip(data[::2], data[1::2], strict=False))

    def below(n: int) -> int:
        first, second = next(pairs, (0, 0))
        return (first * 256 + second) % n

    return Dice(below)
