"""Edit distances of lists of words to one answer, as a search for the translation edit rate needs them: many, fast."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from itertools import accumulate

BEAM = 20  # tercom leaves out what costs so much more than the cheapest of its column

Words = list[str]
Steps = list[str]
Table = tuple[list[list[int]], list[Steps]]


class Answer:
    """What words are compared with, and where in it each word stands, as bits."""

    def __init__(self, words: Words) -> None:
        self.words: Words = words
        self.rows: int = len(words)
        self.masks: dict[str, int] = defaultdict(int)
        for i, word in enumerate(words):
            self.masks[word] |= 1 << i


class Order:
    """Some words in some order, and the steps that an answer is from them.

    A column of the table of distances, for the first j words, is kept as the bits of two integers, where it rises and
    where it falls (Myers 1999): a word takes a few operations whatever the answer's length, and orders that begin alike
    share their first columns. Where tercom's beam would leave out the best steps, they are those that it finds.
    """

    def __init__(self, answer: Answer, words: Words, before: Order | None = None, same: int = 0) -> None:
        """``words``, of which the first ``same`` are those of ``before``."""
        self.answer: Answer = answer
        self.words: Words = words
        self.columns: list[tuple[int, int, int]] = (
            before.columns[: same + 1] if before else [((1 << answer.rows) - 1, 0, answer.rows)]
        )
        for word in words[same:]:
            self.columns.append(_next(answer, self.columns[-1], word))
        self.least: int = self.columns[-1][2]  # no beam finds fewer

    @cached_property
    def edits(self) -> int:
        """How many steps are not keeping a word."""
        return self._table[0][-1][-1] if self._table else self.least

    @cached_property
    def path(self) -> Steps:
        """The steps from the answer to the words: keep, substitute, insert (of words), delete (of the answer).

        Of equal ways it ends with a substitution rather than an insertion, and rather so than with a deletion.
        """
        path, i, j = [], self.answer.rows, len(self.words)
        while i or j:
            path.append(self._table[1][j][i] if self._table else self._last(i, j))
            i, j = i - (path[-1] != "insert"), j - (path[-1] != "delete")
        return path[::-1]

    @cached_property
    def _table(self) -> Table | None:
        return None if self._in_beam() else _table(self.words, self.answer.words)

    def _in_beam(self) -> bool:
        """Whether no step of the path costs so much more than the least of its column that tercom might not see it."""
        i, j = self.answer.rows, len(self.words)
        while self._cell(i, j) > BEAM:
            if self._cell(i, j) > self._least(j) + BEAM:
                return False
            step = self._last(i, j)
            i, j = i - (step != "insert"), j - (step != "delete")
        return True

    def _last(self, i: int, j: int) -> str:
        """The last step to the first ``j`` words from the first ``i`` of the answer."""
        if i and j and self.words[j - 1] == self.answer.words[i - 1]:
            return "keep"  # never dearer than the others
        here = self._cell(i, j)
        if i and j and self._cell(i - 1, j - 1) < here:
            return "substitute"
        return "insert" if j and self._cell(i, j - 1) < here else "delete"

    def _cell(self, i: int, j: int) -> int:
        rises, falls, _ = self.columns[j]
        above = (1 << i) - 1
        return j + (rises & above).bit_count() - (falls & above).bit_count()

    def _least(self, j: int) -> int:
        rises, falls, _ = self.columns[j]
        steps = ((rises >> i & 1) - (falls >> i & 1) for i in range(self.answer.rows))
        return min(accumulate(steps, initial=j))


def _next(answer: Answer, column: tuple[int, int, int], word: str) -> tuple[int, int, int]:
    """The column after one more word: where it rises, where it falls, and its last distance."""
    rises, falls, last = column
    full, top = (1 << answer.rows) - 1, 1 << answer.rows >> 1
    equal = answer.masks.get(word, 0)
    across = (((equal & rises) + rises) ^ rises) | equal
    up, down = falls | (full & ~(across | rises)), rises & across
    last += bool(up & top) - bool(down & top)
    up, down, equal = up << 1 | 1, down << 1, equal | falls
    return full & (down | ~(equal | up)), full & up & equal, last


def _table(words: Words, answer: Words) -> Table:
    """Distances and last steps by number of words and of words of the answer, within tercom's beam.

    A column goes on only from what costs at most `BEAM` more than its cheapest match or substitution.
    """
    far, rows = len(words) + len(answer) + BEAM + 2, len(answer)
    costs, steps = [list(range(rows + 1))], [["delete"] * (rows + 1)]
    cheapest = far
    for word in words:
        before = [cost if cost <= cheapest + BEAM else far for cost in costs[-1]]
        column, last = [before[0] + 1], ["insert"]
        cheapest = far
        for i, other in enumerate(answer):
            cost, step = (before[i], "keep") if word == other else (before[i] + 1, "substitute")
            cheapest = min(cheapest, cost)
            if before[i + 1] + 1 < cost:
                cost, step = before[i + 1] + 1, "insert"
            if column[i] + 1 < cost:
                cost, step = column[i] + 1, "delete"
            column.append(cost)
            last.append(step)
        costs.append(column)
        steps.append(last)
    return costs, steps
