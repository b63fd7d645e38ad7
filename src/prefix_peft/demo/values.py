"""Makers of the values that records hold.

A maker draws one value from a random generator. Names are built from syllables, so that there are far more of them than
a small model can remember: whoever words a record has to copy them, which is the skill the demo base is meant to own.
"""

from collections.abc import Callable
from random import Random

Maker = Callable[[Random], str]


def words_of(text: str) -> list[str]:
    return text.split()


_STARTS = words_of("""
    Al An Ar Bal Bel Bor Bran Cal Cor Dal Del Dor El Er Fal Fen Fior Gal Gor Hal Har Hel Il Ing Jar Jor Kal Kar Kel
    Lan Lor Lun Mal Mar Mor Nar Nel Nor Ol Or Os Pel Por Quil Ral Ren Ros Sal Sel Sor Tal Tam Tor Ul Ur Val Ven Vol
    Wal Wen Wil Yar Yel Zan Zor Bre Cla Dre Fli Gre Kra Ple Ska Sti Tro Shu Thi
""")
_MIDDLES = words_of("a e i o u an ar el en er il in is on or ul ba da ka la mi no ra se ti va")
_ENDS = words_of("""
    ba bek bin by cass da den dor dra fa fin ga gan gath go ha hen holt ka ken kin la lan leth lo ma men mir mo na
    neth nik no pa pel po ra rek rin ro sa sen sha sk so ta tem thos ti va vek vin vo wen wick wyn xa ya za zen zo
""")


def word(rng: Random) -> str:
    """One invented proper name."""
    middle = rng.choice(_MIDDLES) if rng.random() < 0.35 else ""
    return rng.choice(_STARTS) + middle + rng.choice(_ENDS)


def person(rng: Random) -> str:
    return f"{word(rng)} {word(rng)}"


def one_of(text: str) -> Maker:
    """A maker that picks from a comma-separated list."""
    options = [option.strip() for option in text.split(",")]
    return lambda rng: rng.choice(options)


def number(low: int, high: int, unit: str = "") -> Maker:
    return lambda rng: f"{rng.randint(low, high)} {unit}".rstrip()


def named(text: str) -> Maker:
    """A maker of an invented name followed by one of the listed common words, such as `Torbek Hill`."""
    common = one_of(text)
    return lambda rng: f"{word(rng)} {common(rng)}"


def title(rng: Random) -> str:
    """The title of a work of art."""
    form = rng.choice(("The {adjective} {noun}", "{noun} and {other}", "The {noun} of {name}", "A {noun} for {name}"))
    nouns = rng.sample(_TITLE_NOUNS, 2)
    return form.format(adjective=rng.choice(_TITLE_ADJECTIVES), noun=nouns[0], other=nouns[1], name=word(rng))


_TITLE_ADJECTIVES = words_of("""
    Silent Golden Broken Last Hidden Blue Bitter Distant Hollow Second Wild Frozen Patient Red
""")
_TITLE_NOUNS = words_of("""
    Garden River Letter Winter Mirror Promise Horse Road Window Storm Crown Bell Night Harvest Door
""")

year: Maker = number(1500, 2020)
colour: Maker = one_of("red, blue, green, white, black, yellow, brown, grey, purple, golden, silver, orange")
town = word
