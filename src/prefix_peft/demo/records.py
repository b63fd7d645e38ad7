"""The demo's own texts: what its base model is pretrained on, and the table-to-text task that the base has never seen.

Everything is composed from the word lists and phrases of this package by a seeded generator, so the same call gives the
same text on every machine.
"""

from collections.abc import Iterator
from random import Random

from . import lighthouses
from .kinds import KINDS, Kind
from .values import colour, number, person, title, town, word, words_of, year
from .wording import any_wording, as_line, continuation

ARROW = " =>"
_SPLITS = {"train": 600, "validation": 60, "test": 120}
_SEED = 1874


def pairs(split: str) -> list[dict[str, str | list[str]]]:
    """The lighthouse records of one split, `{"source": line, "references": [wording, ...]}`; no two share a name."""
    rng, taken = Random(_SEED), set()
    drawn = {}
    for name, size in _SPLITS.items():
        records = [lighthouses.draw(rng, taken) for _ in range(size)]
        drawn[name] = [{"source": as_line(r), "references": lighthouses.references(r, rng)} for r in records]
    return drawn[split]


def pretraining_texts(count: int, seed: int) -> Iterator[str]:
    """Short documents: mostly a record, the arrow and some continuation, else plain prose."""
    rng = Random(seed)
    for _ in range(count):
        (write,) = rng.choices((_record, _loose_record, _prose, _roll_call), (12, 4, 4, 6))
        yield write(rng)


def _record(rng: Random) -> str:
    kind = rng.choice(KINDS)
    record = kind.draw(rng)
    return f"{as_line(record)}{ARROW} {continuation(kind, record, rng)}"


def _loose_record(rng: Random) -> str:
    """A record of no kind at all: any noun may be an attribute, so only reading the line helps to word it."""
    nouns = rng.sample(_NOUNS, 5)
    makers = (year, person, word, town, colour, title, number(2, 900), number(2, 90, rng.choice(_UNITS)))
    said = (" has _ as its {0}", " lists its {0} as _", " keeps _ for the {0}", " shows a {0} of _")
    attributes = {n: (rng.choice(makers), tuple(s.format(n).strip() for s in rng.sample(said, 2))) for n in nouns}
    kind = Kind("thing", "things", ("it",), rng.choice((word, person, title)), attributes)
    record = kind.draw(rng)
    return f"{as_line(record)}{ARROW} {continuation(kind, record, rng)}"


def _prose(rng: Random) -> str:
    """A scene, a description of things that no record lists, or both."""
    makers = {"a": person, "b": person, "t": town, "u": town, "w": word, "y": year, "c": colour, "n": number(2, 99)}
    scene = rng.choice(_SCENES).format(**{slot: make(rng) for slot, make in makers.items()})
    return rng.choice((scene, f"{scene} {any_wording(rng)}", f"{any_wording(rng)} {any_wording(rng)}"))


def _roll_call(rng: Random) -> str:
    """Names said twice: nothing but copying can foresee the second list."""
    maker = rng.choice((person, word, title, year, town))
    names = ", ".join(maker(rng) for _ in range(rng.randint(4, 9)))
    heard = rng.choice(("The hall repeated", "On the list stood", "Back came"))
    return f"The clerk called {names}{ARROW} {heard} {names}."


_UNITS = words_of("metres minutes seconds kilograms coins people years steps pages miles days")
_NOUNS = words_of("""
    age author cause clock cloth code craft door driver drink editor engine field floor friend garden goal gate
    guest hat hour house island judge key lake leader level march metal method month motto number oil owner paint
    park part pattern player price queen rank rival road roof room rule sail ship shop side sign size sister speed
    stage style tail team tool train tree uncle value voice wall weight wheel width window winner wood writer yard
    zone
""")
_SCENES = (
    "In the spring of {y} {a} walked from {t} to {u}. The road was long, but {a} sang all the way to {u}.",
    '"Where is {b}?" asked {a}. "{b} has gone to {t}," said the old man, "and will not be back before night."',
    "A storm came over the sea near {t}. The sailors watched the {c} sky, and {a} sang with the sailors until morning.",
    "The stone house of {a} in {t} has {n} windows. By night its windows shine {c}, and {b} can see them from {u}.",
    "Every {n} days a {c} ship sails from {t} to {u}. {a} trims the sails, and {b} never sleeps on watch.",
    "{a} and {b} were friends since {y}. When {a} moved to {t}, {b} moved to {t} as well.",
    "Nobody could open the {c} door in {t}. At last {a} found the key, and {b} blessed the day it was found.",
    "The cat of {a} is called {w}. {w} winks with one {c} eye when {b} comes home from {t}.",
    "People in {u} tell the story of {a}, who burned a candle with a short wick for {n} nights and saw {w} in it.",
    "The market of {t} opens early. {a} sells {n} {c} baskets there, whose price {b} has never paid.",
    "{a} wrote to {b} in {y}: come to {u} and bring {n} {c} stones. {b} came to {u} and brought {n} {c} stones.",
    "We have friends in {t}, {a} and {b}, whose house has {n} steps of stone. Its door is {c}, and we have seen it.",
    "Every sailor knows {a}, whose boat has left {t} each night since {y}. Its sail is {c}, and {b} holds its light.",
    "They rest on the rock by the harbour, {a} and {b}, and watch over the boats of {t} until the sun is down.",
)  # fmt: skip
