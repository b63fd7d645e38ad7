"""What may follow a record: its wording as prose, and the other kinds of continuation that compete with it.

Every continuation is a function of the record and a random generator. The pretraining text mixes them without any hint
of which one comes next, so a model of that text can do each of them but prefers none that a reader could ask for.
"""

from random import Random

from .kinds import KINDS, Kind

Record = dict[str, str]


def as_line(record: Record) -> str:
    """The line form of a record: `name : Orla Venn | born : 1912 | field : botany`."""
    return " | ".join(f"{attribute} : {value}" for attribute, value in record.items())


def wording(kind: Kind, record: Record, rng: Random) -> str:
    """One to three sentences that say every attribute, each attribute by one of its phrases."""
    attributes = [attribute for attribute in record if attribute != "name"]
    rng.shuffle(attributes)
    pronoun = rng.choice(kind.pronouns)
    opened = [a for a in attributes if kind.phrases(a, opener=True)]
    opener = ""
    if opened and rng.random() < 0.4:
        attributes.remove(opened[0])
        opener = _say(kind, opened[0], record, rng, opener=True)
    said = [_say(kind, attribute, record, rng) for attribute in attributes]
    cut = rng.randint(1, min(3, len(said)))
    if opener:
        lead = f"{opener}, {_subject(kind, record, rng, inside=True)} {_join(said[:cut])}."
    else:
        lead = f"{_subject(kind, record, rng)} {_join(said[:cut])}."
    if not said[cut:]:
        return lead
    return f"{lead} {rng.choice((pronoun.capitalize(), pronoun.capitalize() + ' also'))} {_join(said[cut:])}."


def _say(kind: Kind, attribute: str, record: Record, rng: Random, opener: bool = False) -> str:
    return rng.choice(kind.phrases(attribute, opener)).replace("_", record[attribute])


def _join(said: list[str]) -> str:
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _subject(kind: Kind, record: Record, rng: Random, inside: bool = False) -> str:
    the = "the" if inside else "The"
    return rng.choice((record["name"], record["name"], f"{the} {kind.noun} {record['name']}"))


def question(kind: Kind, record: Record, rng: Random) -> str:
    attribute = _any_attribute(record, rng)
    return f"Question: what is the {attribute} of {record['name']}? Answer: {record[attribute]}."


def plain_facts(kind: Kind, record: Record, rng: Random) -> str:
    """Every attribute by its own name: works for any record, so attribute names become handles on values."""
    facts = [f"the {attribute} is {value}" for attribute, value in record.items() if attribute != "name"]
    rng.shuffle(facts)
    return f"Of {record['name']} we know that {_join(facts)}."


def reordered(kind: Kind, record: Record, rng: Random) -> str:
    items = list(record.items())
    rng.shuffle(items)
    return as_line(dict(items))


def headline(kind: Kind, record: Record, rng: Random) -> str:
    values = list(record.values())[1:]
    return f"News: {record['name']}! {' - '.join(rng.sample(values, rng.randint(1, 3)))}"


def dialogue(kind: Kind, record: Record, rng: Random) -> str:
    attribute = _any_attribute(record, rng)
    asker, friend = rng.sample(("the baker", "the child", "the judge", "the old man", "her sister", "my uncle"), 2)
    return (
        f'"Have you heard of {record["name"]}?" asked {asker}. '
        f'"Yes," said {friend}, "the {attribute} is {record[attribute]}."'
    )


def count(kind: Kind, record: Record, rng: Random) -> str:
    return f"Facts: {len(record) - 1}. Names: {', '.join(record)}. Values: {', '.join(record.values())}."


def _any_attribute(record: Record, rng: Random) -> str:
    return rng.choice([attribute for attribute in record if attribute != "name"])


_CONTINUATIONS = {wording: 8, question: 5, plain_facts: 4, reordered: 4, headline: 2, dialogue: 2, count: 3}


def continuation(kind: Kind, record: Record, rng: Random) -> str:
    """A continuation of any kind, the wordings being the most frequent."""
    (write,) = rng.choices(list(_CONTINUATIONS), list(_CONTINUATIONS.values()))
    return write(kind, record, rng)


def any_wording(rng: Random) -> str:
    """The wording of some record that is not shown."""
    kind = rng.choice(KINDS)
    return wording(kind, kind.draw(rng), rng)
