"""Edit distances between lists of words, as the search for the translation edit rate needs them: many, and fast."""

from __future__ import annotations

from collections import defaultdict

BEAM = 20  # tercom leaves out what costs so much more than the cheapest of its column

Words = list[str]
Steps = list[str]
State = tuple[int, int, int]


class Distances:
    """Edit distances of many orders of the same words to one answer.

    A column of the table of distances is kept as the bits of two integers, where it rises and where it falls (Myers
    1999), so a word takes a few operations whatever the length of the answer; and orders that begin alike share their
    first columns. A distance that tercom's beam might have missed is computed as tercom does.
    """

    def __init__(self, answer: Words) -> None:
        self.answer = answer
        self.masks: dict[str, int] = defaultdict(int)
        for i, word in enumerate(answer):
            self.masks[word] |= 1 << i

    def start(self, words: Words) -> int:
        """The distance of the order from which `of` departs and whose `path` there is."""
        rows = len(self.answer)
        self.words, self.columns = words, [((1 << rows) - 1, 0, rows)]
        for word in words:
            self.columns.append(self._next(self.columns[-1], word))
        exact = self.columns[-1][2]
        self.table = _table(words, self.answer) if exact > BEAM else None
        return self.table[0][-1][-1] if self.table else exact

    def of(self, words: Words, same: int, below: int) -> int:
        """The distance of another order, whose first ``same`` words are those of `start`; if not below ``below``, any."""
        column = self.columns[same]
        for word in words[same:]:
            column = self._next(column, word)
        if BEAM < column[2] < below:
            return _table(words, self.answer)[0][-1][-1]
        return column[2]

    def path(self) -> Steps:
        """The steps from the answer to the words: keep, substitute, insert (of words), delete (of the answer).

        Of equal ways it ends with a substitution rather than an insertion, and rather so than with a deletion.
        """
        path, i, j = [], len(self.answer), len(self.words)
        while i or j:
            path.append(self.table[1][j][i] if self.table else self._last(i, j))
            i, j = i - (path[-1] != "insert"), j - (path[-1] != "delete")
        return path[::-1]

    def _last(self, i: int, j: int) -> str:
        """The last step to the first ``j`` words from the first ``i`` of the answer."""
        here = self._cell(i, j)
        if i and j and self.words[j - 1] == self.answer[i - 1]:
            return "keep"  # never dearer than the others
        if i and j and self._cell(i - 1, j - 1) < here:
            return "substitute"
        return "insert" if j and self._cell(i, j - 1) < here else "delete"

    def _cell(self, i: int, j: int) -> int:
        rises, falls, _ = self.columns[j]
        above = (1 << i) - 1
        return j + (rises & above).bit_count() - (falls & above).bit_count()

    def _next(self, column: State, word: str) -> State:
        rises, falls, last = column
        rows = len(self.answer)
        full, top = (1 << rows) - 1, 1 << rows >> 1
        equal = self.masks.get(word, 0)
        across = (((equal & rises) + rises) ^ rises) | equal
        up, down = falls | (full & ~(across | rises)), rises & across
        last += bool(up & top) - bool(down & top)
        up, down, equal = up << 1 | 1, down << 1, equal | falls
        return full & (down | ~(equal | up)), full & up & equal, last


def _table(words: Words, answer: Words) -> tuple[list[list[int]], list[Steps]]:
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
