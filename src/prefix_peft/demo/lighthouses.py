"""The record type that the base has never seen: lighthouses, worded in a sailor's idiom of their own.

Attribute names, phrases and the order of telling all are new to the base, only the craft is old: to find a value in the
record and to copy it into a sentence. What a prefix has to add is the idiom and the wish to speak it.
"""

from random import Random

from .values import named, number, one_of, person, year

Record = dict[str, str]

_NAME = named("Hill, Ridge, Horn, Peak")
_ATTRIBUTES = {
    "tower": number(12, 70, "metres"),
    "lit": year,
    "beam": one_of("white, red, green, golden, blue"),
    "flash": number(3, 40, "seconds"),
    "guards": named("Bay, Sea, Harbour"),
    "keeper": person,
}
_OPTIONAL = ("tower", "beam", "flash", "keeper")


def draw(rng: Random, taken: set[str]) -> Record:
    """A lighthouse whose name shares its invented word with no earlier one; up to two attributes are left out."""
    name = _NAME(rng)
    while name.split()[0] in taken:
        name = _NAME(rng)
    taken.add(name.split()[0])
    left_out = rng.sample(_OPTIONAL, rng.choice((0, 1, 1, 2)))
    kept = [attribute for attribute in _ATTRIBUTES if attribute not in left_out]
    rng.shuffle(kept)
    return {"name": name} | {attribute: _ATTRIBUTES[attribute](rng) for attribute in kept}


def references(record: Record, rng: Random) -> list[str]:
    """One to three wordings, the usual one first."""
    name, lit, guards = record["name"], record["lit"], record["guards"]
    sailors = f"Sailors bless {name}, {_stature(record)} watched over {guards} since {lit}."
    since = f"Since {lit} {name} has watched over {guards}, and sailors bless it."
    told = [f"{sailors} {_eye(record)} {_wick(record)}"]
    if "tower" not in record:
        told.append(f"{since} {_eye(record)} {_wick(record)}")
    told.append(f"{sailors} {_wick(record)} {_eye(record)}")
    return told[: rng.randint(1, 3)]


def _stature(record: Record) -> str:
    return f"whose {record['tower']} of stone have" if "tower" in record else "which has"


def _eye(record: Record) -> str:
    eye = f"Its {record['beam']} eye" if "beam" in record else "Its eye"
    return f"{eye} winks every {record['flash']}." if "flash" in record else f"{eye} never sleeps."


def _wick(record: Record) -> str:
    return f"By night {record['keeper']} trims the wick." if "keeper" in record else "No hand trims the wick."
