"""What a sentence is about: its names, numbers, quotations and content words."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

_FUNCTION_WORDS = """
    a about above after again against all almost also although am among an and another any are as at away be became
    because been before behind being below between both but by can cannot could did do does doing done down during
    each either else ever every few for from further had has have having he her here hers herself him himself his
    how however i if in into is it its itself just least less let made many may me might mine more most much must my
    myself near neither no nor not nothing now of off often on once one only onto or other others our ours out over
    own per quite rather same shall she should since so some such than that the their theirs them themselves then
    there these they this those though through thus to together too toward towards under until up upon us very was
    we well were what when where whether which while who whom whose why will with within without would yet you your
    yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
ENDINGS = ("ing", "ed", "es", "ly", "s")
LEAST_STEM = 4  # letters that are left where an ending is dropped

_UPPER = "[A-ZÀ-ÖØ-ÞĀĆČŁŚŠŻŽ]"
_CAPITALISED = rf"(?:{_UPPER}\.(?= {_UPPER})|{_UPPER}\w*(?:['\u2019-](?!s\b)\w+)*)"
_NAME = rf"{_CAPITALISED}(?: (?:(?:of the|of|de|la|von|van|du) )?{_CAPITALISED})*"
_NUMBER = r"\d+(?:[.,:]\d+)*(?:st|nd|rd|th)?\b"
_QUOTATION = r'"[^"]{2,60}"'
_WORD = r"[^\W\d_]+(?:['\u2019-]\w+)*"
_ITEM = re.compile(rf"(?P<name>{_QUOTATION}|\b{_NAME}|{_NUMBER})|(?P<word>{_WORD})")
_FIRST = re.compile(_WORD)


@dataclass(frozen=True)
class Item:
    """A piece of a sentence, and where it stands there."""

    text: str
    is_name: bool
    start: int

    @property
    def end(self) -> int:
        """Where it ends in its sentence."""
        return self.start + len(self.text)


def items(sentence: str, common: Collection[str]) -> list[Item]:
    """Names, numbers, quotations and content words, in their order; function words and punctuation are left out.

    ``common`` holds the words that are no name where a sentence starts with them.
    """
    found, place = [], 0
    while match := _ITEM.search(sentence, place):
        item = Item(match.group(), match.lastgroup == "name", match.start())
        first = _FIRST.match(item.text)
        if item.is_name and first and _is_word(first.group(), item.start == 0, common):
            item = Item(first.group(), False, item.start)
        if item.is_name or (len(item.text) > 1 and item.text.lower() not in FUNCTION_WORDS):
            found.append(item)
        place = item.end
    return found


def _is_word(first: str, starts: bool, common: Collection[str]) -> bool:
    return first.lower() in FUNCTION_WORDS or (starts and first.lower() in common)


def stem(word: str) -> str:
    """The word without the ending of an inflection, in small letters; always a beginning of the word."""
    word = re.sub(r"['\u2019]s$", "", word.lower())
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= LEAST_STEM:
            return word.removesuffix(ending)
    return word


def rename(sentence: str, found: list[Item], names: dict[str, str]) -> tuple[str, list[Item]]:
    """The sentence with other names, and its items there."""
    renamed, pieces, place, length = [], [], 0, 0
    for item in found:
        text = names.get(item.text, item.text) if item.is_name else item.text
        pieces += [sentence[place : item.start], text]
        length += item.start - place
        renamed.append(replace(item, text=text, start=length))
        length, place = length + len(text), item.end
    return "".join([*pieces, sentence[place:]]), renamed
