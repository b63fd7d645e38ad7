"""The kinds of record that the pretraining text is about.

Each attribute of a kind has a maker of values and a few verb phrases that say it; sentences are composed from those, so
a handful of phrases yields a great many wordings. A phrase that starts with a capital letter is an opener: it stands at
the head of a sentence, before the name.
"""

from dataclasses import dataclass
from random import Random

from . import values
from .values import Maker, named, number, one_of, person, title, town, word, year


@dataclass(frozen=True)
class Kind:
    """One type of record: how it is named and called, and how each attribute is drawn and said."""

    noun: str
    plural: str
    pronouns: tuple[str, ...]
    name: Maker
    attributes: dict[str, tuple[Maker, tuple[str, ...]]]

    def draw(self, rng: Random) -> dict[str, str]:
        """A record: the name first, then three to five attributes in any order."""
        chosen = rng.sample(sorted(self.attributes), min(len(self.attributes), rng.randint(3, 5)))
        return {"name": self.name(rng)} | {attribute: self.attributes[attribute][0](rng) for attribute in chosen}

    def phrases(self, attribute: str, opener: bool) -> list[str]:
        return [phrase for phrase in self.attributes[attribute][1] if phrase[0].isupper() == opener]


def _kind(noun: str, plural: str, pronouns: str, name: Maker, **attributes: tuple[Maker, str]) -> Kind:
    """Read the compact notation below, where phrases are separated by slashes and `_` stands for the value."""
    said = {key: (maker, tuple(text.split(" / "))) for key, (maker, text) in attributes.items()}
    return Kind(noun, plural, tuple(pronouns.split()), name, said)


_MATERIAL = one_of("stone, iron, oak, brick, steel, granite, timber, marble, copper, clay")
_SUBJECT = one_of("botany, law, medicine, music, algebra, history, poetry, chess, geology, painting, grammar, physics")
_FOOD = one_of("rice, beans, honey, salmon, cheese, mushrooms, pears, barley, onions, pepper, walnuts, cream, lentils")
_LAND = one_of("forest, desert, marsh, meadow, valley, island, hills, lake, harbour, plain, sea, mountains")
_TRADE = one_of("wool, glass, salt, paper, silk, wine, fish, boats, clocks, tea, leather, candles, ropes, pottery")
_MOOD = one_of("sad, cheerful, slow, strange, gentle, loud, bitter, tender, funny, dark, calm, proud")
_SEASON = one_of("spring, summer, autumn, winter, January, March, April, June, July, October, November")

KINDS = (
    _kind("person", "people", "she he", person,
          born=(year, "was born in _ / came into the world in _ / Born in _"),
          field=(_SUBJECT, "works in the field of _ / is known for _ / made a career in _ / Famous for _"),
          home=(town, "lives in _ / comes from _ / has a house in _ / From a home in _"),
          teacher=(person, "was taught by _ / learned everything from _ / Once a pupil of _"),
          prize=(title, "won the prize called _ / received _ / Honoured with _"),
          pet=(word, "owns a dog named _ / walks with the dog _ every night")),
    _kind("town", "towns", "it", town,
          founded=(year, "was founded in _ / dates from _ / has stood since _ / Founded in _"),
          people=(number(200, 90000), "has _ people / is home to _ people / counts _ people / With _ people"),
          mayor=(person, "is led by the mayor _ / has chosen _ as mayor / Under the mayor _"),
          trade=(_TRADE, "lives by the trade in _ / is known for its _ / sells _ to the world / Rich from _"),
          river=(word, "lies on the river _ / was built beside the _ / On the banks of the _"),
          land=(_LAND, "is surrounded by _ / looks out on the _")),
    _kind("film", "films", "it", title,
          director=(person, "was directed by _ / is the work of _ / Directed by _"),
          star=(person, "stars _ / gives the leading part to _ / With _ in the leading part"),
          released=(year, "was released in _ / reached the screen in _ / Released in _"),
          length=(number(60, 210, "minutes"), "lasts _ / runs for _ / is over after _ / At a length of _"),
          mood=(_MOOD, "is a _ story / was called _ by those who saw it"),
          studio=(named("Pictures, House, Brothers"), "was made by _ / was paid for by _ / Made by _")),
    _kind("animal", "animals", "it", named("fox, owl, hare, otter, crane, lizard, moth, goat, deer, beetle"),
          food=(_FOOD, "eats _ / feeds on _ / is fond of _ / Fond of _"),
          lives=(_LAND, "lives near the _ / is found by the _ / makes its nest near the _"),
          weight=(number(1, 300, "kilograms"), "weighs _ / reaches a weight of _ / At a weight of _"),
          colour=(values.colour, "is _ / has _ fur / wears a _ coat"),
          seen=(year, "was last seen in _ / was first drawn in _ / First seen in _"),
          finder=(person, "was found by _ / was described by _ / Described by _")),
    _kind("river", "rivers", "it", word,
          length=(number(10, 4000, "kilometres"), "is _ long / runs for _ / Over a course of _"),
          source=(named("Hill, Peak, Spring, Forest"), "rises at _ / begins at _ / From its source at _"),
          mouth=(named("Bay, Sea, Lake, Harbour"), "flows into _ / ends in _ / reaches the water of _"),
          depth=(number(2, 90, "metres"), "is _ deep / has a depth of _ / With a depth of _"),
          bridges=(number(2, 60), "is crossed by _ bridges / passes under _ bridges"),
          fish=(one_of("salmon, trout, eels, carp, pike, perch"), "is full of _ / is famous for its _ / Rich in _")),
    _kind("book", "books", "it", title,
          author=(person, "was written by _ / is the work of _ / came from the pen of _ / Written by _"),
          pages=(number(60, 1200), "has _ pages / fills _ pages / At _ pages"),
          printed=(year, "was printed in _ / first appeared in _ / Printed in _"),
          hero=(person, "tells of _ / follows the life of _ / has _ as its hero"),
          subject=(_SUBJECT, "is about _ / deals with _ / teaches _"),
          cover=(values.colour, "has a _ cover / is bound in _")),
    _kind("bridge", "bridges", "it", named("Bridge, Crossing, Arch"),
          opened=(year, "was opened in _ / has carried traffic since _ / Opened in _"),
          span=(number(20, 900, "metres"), "spans _ / is _ long / With a span of _"),
          made=(_MATERIAL, "is made of _ / was built of _ / Made of _"),
          crosses=(word, "crosses the river _ / leads over the _"),
          engineer=(person, "was planned by _ / was drawn by the engineer _ / Planned by _"),
          toll=(number(2, 40, "coins"), "costs _ to cross / takes a toll of _")),
    _kind("dish", "dishes", "it", named("soup, stew, cake, bread, pie, salad, pudding, dumplings"),
          origin=(town, "comes from _ / was first cooked in _ / A gift of the town of _"),
          main=(_FOOD, "is made with _ / is mostly _ / Made with _"),
          also=(_FOOD, "also holds _ / is finished with _ / needs plenty of _"),
          time=(number(5, 300, "minutes"), "takes _ to cook / is ready after _ / After _ on the fire"),
          cook=(person, "was invented by _ / is best cooked by _ / Invented by _"),
          season=(_SEASON, "is eaten in _ / belongs to _ / tastes best in _")),
    _kind("school", "schools", "it", named("School, College, Academy, Hall"),
          head=(person, "is run by _ / has _ as its head / Under its head _"),
          pupils=(number(20, 3000), "has _ pupils / teaches _ pupils / With _ pupils"),
          opened=(year, "opened in _ / has taught since _ / Open since _"),
          town=(town, "stands in _ / is found in _ / In the town of _"),
          best=(_SUBJECT, "is best at _ / is proud of its lessons in _ / Proud of its _"),
          uniform=(values.colour, "dresses its pupils in _ / has chosen _ for its coats")),
    _kind("mountain", "mountains", "it", named("Peak, Hill, Ridge, Horn, Mount"),
          height=(number(300, 8000, "metres"), "is _ high / rises to _ / reaches _ / At a height of _"),
          climbed=(year, "was first climbed in _ / was conquered in _ / Climbed in _"),
          climber=(person, "was first climbed by _ / was conquered by _ / Conquered by _"),
          rock=(_MATERIAL, "is made of _ / hides a core of _"),
          snow=(_SEASON, "is white from _ on / loses its snow in _"),
          range=(word, "belongs to the range of _ / stands among the _ / In the range of _")),
    _kind("song", "songs", "it", title,
          singer=(person, "was sung by _ / is sung by _ / made _ famous / Sung by _"),
          composer=(person, "was composed by _ / was written by _ / Composed by _"),
          year=(year, "was first heard in _ / dates from _ / First heard in _"),
          mood=(_MOOD, "is a _ tune / sounds _ to most people"),
          language=(word, "is sung in the language of _ / has words in old _"),
          verses=(number(2, 30), "has _ verses / goes on for _ verses")),
)  # fmt: skip
