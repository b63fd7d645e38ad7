"""Names that nobody bears: where they replace the true ones, only copying can tell what to write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

_ONSETS = "b br c ch d dr f fl g gr h j k kh l m n p pr qu r s sh st t th tr v w y z"
_VOWELS = "a a a e e i i o o u ai ea ou é ö á"
_CODAS = "b ck d f g k l ll m n n nd ng r r rt s ss t th v x z"
ONSETS, VOWELS, CODAS = _ONSETS.split() + [""] * 4, _VOWELS.split(), _CODAS.split() + [""] * 12
SYLLABLES = (1, 1, 2, 2, 2, 3)
FROM_POOL = 0.6  # of the words of a made-up name are taken from other names

_WORD = re.compile(r"[^\W\d_][\w'\u2019-]*")


def made_up(name: str, pool: Sequence[str], random: Random) -> str:
    """Something of the same shape: digits for digits, capitalised words for capitalised words."""

    def other(match: re.Match[str]) -> str:
        word = match.group()
        return _word(pool, random) if word[0].isupper() else word

    return re.sub(r"\d", lambda _: random.choice("0123456789"), _WORD.sub(other, name))


def _word(pool: Sequence[str], random: Random) -> str:
    if pool and random.random() < FROM_POOL:
        return random.choice(pool)
    syllables = range(random.choice(SYLLABLES))
    letters = (random.choice(ONSETS) + random.choice(VOWELS) + random.choice(CODAS) for _ in syllables)
    return "".join(letters).capitalize()
