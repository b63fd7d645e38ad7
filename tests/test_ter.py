import math
import random

import pytest

from prefix_peft.metrics import ter
from prefix_peft.metrics.edits import Answer, Order
from prefix_peft.metrics.ter import _places, _shifted, _shifts


def test_the_example_of_the_paper():
    # Snover et al. 2006: a shift of "this week", two substitutions and an insertion, over thirteen words.
    hypothesis = "THIS WEEK THE SAUDIS denied information published in the new york times"
    reference = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN new york times"
    assert ter([hypothesis], [[reference]]) == pytest.approx(4 / 13)


@pytest.mark.parametrize(
    "prediction, references, edits, words",
    [
        ("a b c", ["A  b C"], 0, 3),  # neither case nor the number of spaces counts
        ("a b c d", ["c d a b"], 1, 4),
        ("", ["a b", "a b c d"], 2, 3),  # the nearest reference, and the mean length of all
        ("a b", [""], 2, 0),
        ("a b", ["x y z", "a"], 1, 2),
    ],
)
def test_edits_by_hand(prediction, references, edits, words):
    both = ter([prediction, "x"], [references, ["y"]])  # another input, so that there is a word in some reference
    assert both == pytest.approx((edits + 1) / (words + 1))


def test_without_a_word_there_is_no_rate():
    with pytest.raises(ValueError, match="no reference has a word, so there is no edit rate"):
        ter(["a"], [[""]])


@pytest.mark.parametrize(
    "count, lengths, words", [(300, (0, 9), "abc"), (100, (3, 14), "abcdefgh"), (2, (5, 45), "abcdefghijklmnopqrst")]
)
def test_equals_the_search_without_short_cuts(count, lengths, words):
    draw = random.Random(count)
    for _ in range(count):
        prediction = draw.choices(words, k=draw.randint(*lengths))
        references = [draw.choices(words, k=draw.randint(*lengths)) for _ in range(draw.randint(1, 3))]
        references.append(disturbed(prediction, draw))
        total = sum(map(len, references)) / len(references)
        expected = min(searched(prediction, reference) for reference in references)
        found = ter([" ".join(prediction)], [[" ".join(each) for each in references]]) if total else expected
        assert found * (total or 1) == pytest.approx(expected), (prediction, references)


def test_steps_are_the_first_of_equals():
    draw = random.Random(3)
    names = {" ": "keep", "S": "substitute", "I": "insert", "D": "delete"}
    for _ in range(200):
        words, answer = (draw.choices("abc", k=draw.randint(1, 9)) for _ in range(2))
        edits, path = table(words, answer)
        order = Order(Answer(answer), words)
        assert (order.edits, order.path) == (edits, [names[step] for step in path])


def test_which_shifts_are_tried():
    draw = random.Random(4)
    for _ in range(200):
        words, answer = (draw.choices("abcd", k=draw.randint(1, 14)) for _ in range(2))
        found = list(_shifts(Order(Answer(answer), words), _places(words, answer)))
        for length in range(1, 15):
            expected = list(places(words, answer, table(words, answer)[1], length)) if length <= 10 else []
            assert [(start, behind) for start, end, behind in found if end - start + 1 == length] == expected


@pytest.mark.parametrize(
    "behind, expected", [(-1, "bcdaef"), (0, "abcdef"), (2, "aebcdf"), (4, "aebcdf"), (5, "aefbcd")]
)
def test_where_a_shift_goes(behind, expected):
    shifted, same = _shifted(list("abcdef"), 1, 3, behind)
    assert "".join(shifted) == expected and expected.startswith("abcdef"[:same])


def test_what_costs_too_much_is_not_seen():
    # The best way deletes thirty words and then keeps ten; a column that starts with substitutions seems cheaper.
    answer, words = [f"x{i}" for i in range(30)] + list("abcdefghij"), list("abcdefghij")
    order = Order(Answer(answer), words)
    assert order.least == 30 < order.edits == table(words, answer)[0]
    short = Order(Answer(answer[15:]), words)
    assert short.least == short.edits == 15


def disturbed(words, draw):
    """The same words, a row of them elsewhere."""
    i, j, k = sorted(draw.randint(0, len(words)) for _ in range(3))
    return words[:i] + words[j:k] + words[i:j] + words[k:]


def searched(words, answer):
    """Edits as the paper and tercom's source have it: every shift, a table for each, all in floats and lists."""
    if not words or not answer:
        return len(words) + len(answer)
    edits, path = table(words, answer)
    shifts = 0
    while True:
        best, total = None, edits
        for length in range(10, 0, -1):
            for start, behind in places(words, answer, path, length):
                rest, moved = words[:start] + words[start + length :], words[start : start + length]
                if behind < start:
                    at = behind + 1
                elif behind < start + length:
                    at = behind
                else:
                    at = behind + 1 - length
                shifted = rest[:at] + moved + rest[at:]
                left, its_path = table(shifted, answer)
                if left + 1 < total or (best is None and left + 1 == total):
                    best, total = (shifted, left, its_path), left + 1
        if best is None:
            return edits + shifts
        (words, edits, path), shifts = best, shifts + 1


def places(words, answer, path, length):
    """Each shift of a row of that length: its first word, and the word behind which it goes."""
    hypothesis_wrong, reference_wrong, aligned = {}, {}, {}
    i = j = -1
    for step in path:
        i += step != "I"
        j += step != "D"
        if step != "D":
            hypothesis_wrong[j] = step != " "
        if step != "I":
            reference_wrong[i], aligned[i] = step != " ", j
    for start in range(len(words) - length + 1):
        row = words[start : start + length]
        for at in range(len(answer) - length + 1):
            fits = answer[at : at + length] == row and not start <= aligned[at] < start + length
            wrong = any(hypothesis_wrong[start + k] for k in range(length))
            if not (
                fits
                and wrong
                and abs(aligned[at] - start) <= 50
                and any(reference_wrong[at + k] for k in range(length))
            ):
                continue
            for offset in range(-1, length):
                if at + offset < 0:
                    yield start, -1
                elif aligned[at + offset] != start and (offset == 0 or aligned[at + offset] != aligned[at]):
                    yield start, aligned[at + offset]


def table(words, answer):
    """Costs pushed forward from cell to cell; what costs 20 more than the cheapest match or substitution is left."""
    cost, step = {(0, 0): 0.0}, {}

    def reach(cell, price, symbol):
        if price < cost.get(cell, math.inf):
            cost[cell], step[cell] = price, symbol

    cheapest = math.inf
    for j in range(len(words) + 1):
        limit, cheapest = cheapest + 20, math.inf
        for i in range(len(answer) + 1):
            here = cost.get((i, j), math.inf)
            if here == math.inf or (j < len(words) and here > limit):
                continue
            if i < len(answer) and j < len(words):
                price, symbol = (here, " ") if answer[i] == words[j] else (here + 1, "S")
                reach((i + 1, j + 1), price, symbol)
                cheapest = min(cheapest, price)
            if j < len(words):
                reach((i, j + 1), here + 1, "I")
            if i < len(answer):
                reach((i + 1, j), here + 1, "D")
    path, i, j = [], len(answer), len(words)
    while i or j:
        path.insert(0, step[i, j])
        i, j = i - (path[0] != "I"), j - (path[0] != "D")
    return cost[len(answer), len(words)], path
