"""What the bases are trained on: pairs of a noised text and the text, and plain prose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from .corpus import Corpus
from .names import made_up
from .noise import content, draw_form, infill
from .words import Item, items, rename

SENTENCES = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)  # of a pair
PROSE_SENTENCES = 4
SEPARATORS = (None, None, None, " =>", " =>", " ->", "\n", " ==", " :")  # None: source and target parted by bos
COPIED_WORDS = (2, 12)
GAP = " ..."  # of a decoder's infilling


class Pair(NamedTuple):
    """A source, what parts it from the target (None where that is the tokenizer's bos), and the target."""

    source: str
    separator: str | None
    target: str


@dataclass(frozen=True)
class Mixture:
    """Shares of the examples: those that are mere copies; of the others, those that are prose; of the pairs, those with
    spans to fill in and those with made-up names. ``copying`` is that of the training until when there are more copies.
    """

    corpus: Corpus
    bos_token: str
    mask_token: str | None = None  # an encoder-decoder's; its sources have no separator
    copied: float = 0.05
    copying: float = 0.0
    prose: float = 0.2
    infilled: float = 0.25
    renamed: float = 0.5

    def shares(self) -> dict[str, float]:
        """Those of the examples, to be told with the weights."""
        return {
            "copied": self.copied,
            "copying": self.copying,
            "prose": self.prose,
            "infilled": self.infilled,
            "renamed": self.renamed,
        }

    def draw(self, count: int, random: Random, share: float = 1.0) -> list[Pair]:
        """As many examples, the same for the same state of ``random``, as at that share of the training.

        A model that cannot copy learns it first, from short texts that nothing else tells: these are all at the start,
        and fewer and fewer, down to ``copied``, at the share ``copying``.
        """
        copied = max(self.copied, 1 - share / self.copying if self.copying else 0.0)
        return [self._example(random, copied) for _ in range(count)]

    def _example(self, random: Random, copied: float) -> Pair:
        if random.random() < copied:
            return self._copy(random)
        return self._prose(random) if random.random() < self.prose else self._pair(random)

    def _copy(self, random: Random) -> Pair:
        """Any words, to be written once more."""
        words = [random.choice(random.choice(self.corpus.words)) for _ in range(random.randint(*COPIED_WORDS))]
        space = random.choice((" ", " ", "_"))
        separator = None if self.mask_token is not None else random.choice(SEPARATORS)
        return Pair(space.join(words), separator, " ".join(words))

    def _prose(self, random: Random) -> Pair:
        """A text after nothing, which for an encoder-decoder is one mask."""
        text = " ".join(self.corpus.passage(random, PROSE_SENTENCES))
        return Pair("", self.bos_token, text) if self.mask_token is None else Pair(self.mask_token, None, text)

    def _pair(self, random: Random) -> Pair:
        sentences = self.corpus.passage(random, random.choice(SENTENCES))
        found = [items(sentence, self.corpus.common) for sentence in sentences]
        if random.random() < self.renamed:
            sentences, found = self._rename(sentences, found, random)
        together = [item for of_sentence in found for item in of_sentence]
        if not together or random.random() < self.infilled:
            source = infill(sentences, self.mask_token or GAP.strip(), random)
        else:
            source = content(together, draw_form(random), random)
        separator = None if self.mask_token is not None else random.choice(SEPARATORS)
        return Pair(source, separator, " ".join(sentences))

    def _rename(
        self, sentences: Sequence[str], found: Sequence[list[Item]], random: Random
    ) -> tuple[list[str], list[list[Item]]]:
        true = dict.fromkeys(item.text for of_sentence in found for item in of_sentence if item.is_name)
        names = {name: made_up(name, self.corpus.words[1], random) for name in true}
        both = [rename(sentence, own, names) for sentence, own in zip(sentences, found, strict=True)]
        return [sentence for sentence, _ in both], [own for _, own in both]
