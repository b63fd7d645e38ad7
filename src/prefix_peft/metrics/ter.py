"""Translation edit rate (Snover et al. 2006): edits to the nearest reference over the references' mean length.

Edits are insertions, deletions and substitutions of words, and shifts of a row of words to elsewhere, each at cost 1.
The best set of shifts is too dear to find, so the measure is what a greedy search finds: always the shift that helps
most, until none does. Which shifts are tried, and in which order, is that of the authors' program tercom 0.7.25, whose
scores these are, to the last edit. sacrebleu's TER takes other shifts where several are equally good.

What is not searched is what cannot matter: no order of the words has fewer edits than their mere multiset.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from .edits import BEAM, Answer, Order, Steps, Words
from .texts import checked

LONGEST, FARTHEST = 10, 50  # tercom's limits to a shift: words it moves, words it moves over

Places = dict[tuple[str, ...], list[int]]  # where in the answer a row of words stands
Shift = tuple[int, int, int]  # the words from start to end, both included, and behind which word they go (-1: first)


def ter(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Edits per reference word, from 0 (equal) up; words are what spaces part, whatever their case.

    Raises:
        ValueError: the two lists do not fit each other, or no reference has a word.
    """
    edits, words = 0, 0.0
    for prediction, texts in zip(*checked(predictions, references), strict=True):
        answers = [text.lower().split() for text in texts]
        edits += fewest_edits(prediction.lower().split(), answers)
        words += sum(map(len, answers)) / len(answers)
    if not words:
        raise ValueError("no reference has a word, so there is no edit rate.")
    return edits / words


def fewest_edits(words: Words, answers: Sequence[Words]) -> int:
    """Edits, shifts among them, to the nearest of ``answers``."""
    bounds = sorted((_least_edits(words, answer), i) for i, answer in enumerate(answers))
    best = len(words) + max(map(len, answers))  # delete and insert everything
    for bound, i in bounds:
        if bound < best:
            best = min(best, _edits(words, answers[i], bound, best))
    return best


def _least_edits(words: Words, answer: Words) -> int:
    return max(len(words), len(answer)) - (Counter(words) & Counter(answer)).total()


def _edits(words: Words, answer: Words, bound: int, enough: int) -> int:
    """Edits by greedy shifts, or some number from ``enough`` up where they cannot be fewer than that."""
    if not answer:
        return bound
    order, places, shifts = Order(Answer(answer), words), _places(words, answer), 0
    while bound < order.edits and shifts + bound < enough:
        shifted = _best_shift(order, places, bound)
        if shifted is None:
            break
        order, shifts = shifted, shifts + 1
    return order.edits + shifts


def _best_shift(order: Order, places: Places, bound: int) -> Order | None:
    """After the shift that leaves the fewest edits, the longest and then the first of equals; None if none helps."""
    best, fewest = None, order.edits
    possible: dict[int, list[Shift]] = defaultdict(list)
    for shift in _shifts(order, places):
        possible[shift[1] - shift[0]].append(shift)
    for length in sorted(possible, reverse=True):
        for start, end, behind in dict.fromkeys(possible[length]):
            # moving n words mends at most 2 n edits, and tercom stops at more than that
            if fewest <= max(bound, order.edits - 2 * (length + 1) - (order.edits > BEAM)):
                return best
            words, same = _shifted(order.words, start, end, behind)
            shifted = Order(order.answer, words, order, same)
            if shifted.least < fewest and shifted.edits < fewest:
                best, fewest = shifted, shifted.edits
    return best


def _shifted(words: Words, start: int, end: int, behind: int) -> tuple[Words, int]:
    """The words in their new order, and how many at the front are where they were."""
    rest = words[:start] + words[end + 1 :]
    if behind < start:
        to = behind + 1
    elif behind > end:
        to = behind - (end - start)
    else:  # behind one of the moved words themselves: so many further
        to = min(behind, len(rest))
    return rest[:to] + words[start : end + 1] + rest[to:], min(start, to)


def _shifts(order: Order, places: Places) -> Iterator[Shift]:
    """Every shift of a row of words that the answer has too, not all right here and not all met there."""
    words, (wrong, missed, beside) = order.words, _aligned(order.path)
    for start in range(len(words)):
        here = places.get((words[start],), ())
        if not any(beside[at] != start and -FARTHEST - 1 <= beside[at] - start <= FARTHEST for at in here):
            continue
        for end in range(start, min(start + LONGEST, len(words))):
            row = tuple(words[start : end + 1])
            if row not in places:
                break
            if not any(wrong[start : end + 1]):
                continue
            there = [at for at in places[row] if _elsewhere(beside[at], start, end)]
            if not there:
                break
            for at in there:
                if any(missed[at : at + len(row)]):
                    yield from ((start, end, behind) for behind in _targets(at, start, len(row), beside))


def _elsewhere(at: int, start: int, end: int) -> bool:
    return not start <= at <= end and abs(at - start) <= FARTHEST


def _targets(at: int, start: int, length: int, beside: list[int]) -> Iterator[int]:
    """Behind which words a row may go that stands at ``at`` in the answer, by what the answer's are aligned to."""
    for offset in range(-1, length):
        if at + offset < 0:
            yield -1
        elif beside[at + offset] != start and (offset == 0 or beside[at + offset] != beside[at]):
            yield beside[at + offset]


def _aligned(path: Steps) -> tuple[list[bool], list[bool], list[int]]:
    """Which words are wrong, which of the answer are missed, and the word that each of the answer is aligned to."""
    wrong, missed, beside = [], [], []
    for step in path:
        if step != "delete":
            wrong.append(step != "keep")
        if step != "insert":
            missed.append(step != "keep")
            beside.append(len(wrong) - 1)
    return wrong, missed, beside


def _places(words: Words, answer: Words) -> Places:
    """Where each row of words stands that are all among ``words``."""
    known, places = set(words), defaultdict(list)
    for start in range(len(answer)):
        for end in range(start, min(start + LONGEST + 1, len(answer))):
            if answer[end] not in known:
                break
            places[tuple(answer[start : end + 1])].append(start)
    return dict(places)
