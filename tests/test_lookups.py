"""Look-ups of positions, however a module makes them: found by watching, and shifted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prefix_peft.anatomy.lookups import LookUp, PositionWatch, Shift

SIZE, WIDTH, TOKENS, SHIFT = 11, 3, 2, 4  # as many tokens as a trial run has


class Reader(nn.Module):
    """A table of positions, and a table of tokens beside it."""

    def __init__(self, read):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(SIZE * WIDTH).reshape(SIZE, WIDTH).float())
        self.register_buffer("tokens", torch.randn(SIZE, WIDTH))
        self.register_buffer("table", self.weight.detach().clone())
        self.read = read

    def forward(self, rows):
        return self.read(self, rows)


def of_each_row(module, rows):
    """GPT-J's: a copy of the table for each row of the batch."""
    return torch.gather(module.table.repeat(len(rows), 1, 1), 1, rows[..., None].repeat(1, 1, WIDTH))


WAYS = {
    "embedding": (lambda m, rows: F.embedding(rows, m.weight), "weight"),
    "index_select": (lambda m, rows: m.table.index_select(0, rows.flatten()).view(*rows.shape, WIDTH), "table"),
    "torch.index_select": (lambda m, rows: torch.index_select(m.weight, 0, rows[0])[None], "weight"),
    "indexing": (lambda m, rows: m.table[rows], "table"),
    "slice": (lambda m, rows: m.table[: rows.shape[1]][None], "table"),
    "gather": (of_each_row, None),
    "index_select with keywords": (lambda m, rows: torch.index_select(m.table, dim=0, index=rows[0])[None], "table"),
    "gather with keywords": (
        lambda m, rows: torch.gather(m.table[None], dim=1, index=rows[..., None].repeat(1, 1, WIDTH)),
        None,
    ),
    "keywords beside": (
        lambda m, rows: (
            F.embedding(rows, m.weight)
            + 0 * F.embedding(input=rows, weight=m.tokens)
            + 0 * torch.index_select(m.tokens, dim=0, index=rows[0])
        ),
        "weight",
    ),
    "indices beside": (lambda m, rows: m.table[rows] + 0 * m.table[0, 1] + 0 * m.table[:, 1].sum(), "table"),
}
FUNCTION = {
    "torch.index_select": "index_select",
    "indexing": "__getitem__",
    "slice": "__getitem__",
    "index_select with keywords": "index_select",
    "gather with keywords": "gather",
    "keywords beside": "embedding",
    "indices beside": "__getitem__",
}


def positions(rows=1, start=0):
    return torch.arange(start, start + TOKENS).expand(rows, -1)


def found(read, rows):
    module = Reader(read)
    with PositionWatch([nn.Identity(), module]) as watch:
        module(rows)
    assert set(watch.found) <= {module}
    return watch.found.get(module)


@pytest.mark.parametrize("way", WAYS)
def test_found_and_shifted(way):
    read, table = WAYS[way]
    function = FUNCTION.get(way, way)
    assert found(read, positions()) == (function, table)
    module = Reader(read)
    look_up = LookUp("", function, table)
    with Shift(look_up.table_of(module), function, SHIFT):
        out = module(positions())
    assert torch.equal(out, module.table[SHIFT : SHIFT + TOKENS][None])


@pytest.mark.parametrize("way", ["embedding", "indexing", "gather"])
def test_each_row_may_have_its_own_shift(way):
    read, table = WAYS[way]
    module, shift = Reader(read), torch.tensor([[0], [3], [SIZE - TOKENS]])
    with Shift(None if table is None else getattr(module, table), FUNCTION.get(way, way), shift):
        out = module(positions(3))
    for row, begins in enumerate(shift[:, 0]):
        assert torch.equal(out[row], module.table[begins : begins + TOKENS])


@pytest.mark.parametrize("way", [way for way in WAYS if "beside" not in way])
def test_past_the_table_is_refused(way):
    read, table = WAYS[way]
    module = Reader(read)
    last = SIZE - TOKENS
    wanted = module.table[last:][None]
    for shift in (last, last + 1):
        with Shift(None if table is None else getattr(module, table), FUNCTION.get(way, way), shift):
            if shift == last:
                assert torch.equal(module(positions()), wanted)
                continue
            message = f"position {SIZE} is past the {SIZE} learned positions .* begins {shift} positions later"
            with pytest.raises(IndexError, match=message):
                module(positions())


NO_POSITIONS = {
    "equal tokens": lambda m, rows: F.embedding(torch.full_like(rows, 7), m.weight),
    "every other row": lambda m, rows: m.table[rows * 2],
    "one token": lambda m, rows: m.table[rows[:, :1]],
    "the whole table": lambda m, rows: m.table[torch.arange(SIZE)],
    "a slice of another length": lambda m, rows: m.table[: TOKENS + 3],
    "a mask": lambda m, rows: m.table[torch.ones(SIZE, dtype=torch.bool)],
    "nothing": lambda m, rows: m.table[rows[:, :0]],
    "numbers": lambda m, rows: m.table[0, 1],
    "what is no table": lambda m, rows: torch.randn(SIZE, WIDTH)[rows],
    "equal gathered": lambda m, rows: torch.gather(m.table[None], 1, torch.ones(1, TOKENS, 1, dtype=torch.int64)),
}


@pytest.mark.parametrize("way", NO_POSITIONS)
def test_what_is_no_look_up_of_positions(way):
    assert found(NO_POSITIONS[way], positions()) is None


def test_positions_may_begin_anywhere_and_belong_to_the_innermost_module():
    assert found(WAYS["embedding"][0], positions(start=2)) == ("embedding", "weight")
    assert found(WAYS["gather"][0], positions(rows=2)) == ("gather", None)
    inner, outer = Reader(WAYS["embedding"][0]), nn.Identity()
    for running in ([], [inner, outer]):
        with PositionWatch(running) as watch:
            inner(positions())
        assert watch.found == {}


def test_other_tables_stay_where_they_are():
    module = Reader(lambda m, rows: F.embedding(rows, m.tokens))
    with Shift(module.weight, "embedding", SHIFT):
        assert torch.equal(module(positions()), module.tokens[:TOKENS][None])


class Waves(nn.Module):
    """Pegasus-X's: nothing is held, what belongs to a position is computed."""

    def forward(self, rows):
        return torch.sin(rows[0][:, None] * torch.linspace(0.1, 1.0, WIDTH))


def test_positions_that_are_computed():
    module, rows = Waves(), torch.arange(TOKENS)[None]
    with PositionWatch([module]) as watch:
        expected = module(rows + SHIFT)
    assert watch.found == {module: ("mul", None)}
    with Shift(None, "mul", SHIFT):
        torch.testing.assert_close(module(rows), expected)


class Rotary(nn.Module):
    """Positions become angles; ``frequencies`` may also be trained, which is no rotary embedding."""

    def __init__(self, frequencies=nn.Buffer):
        super().__init__()
        self.frequencies = frequencies(torch.linspace(0.1, 1.0, WIDTH))

    def forward(self, rows):
        return torch.cos(rows[..., None].float() * self.frequencies)


def test_rotary_embeddings_are_told_from_look_ups():
    module, shift = Rotary(), torch.tensor([[0], [SHIFT]])
    with PositionWatch([module]) as watch:
        expected = torch.cat([module(positions(start=start)) for start in shift[:, 0]])
    assert watch.rotary == {module: ("float", None)} and watch.found == {}
    with Shift(None, "float", shift):
        torch.testing.assert_close(module(positions()), expected)


@pytest.mark.parametrize(
    ("module", "rows"), [(Rotary(nn.Parameter), positions()), (Rotary(), torch.full((1, TOKENS), 7))]
)
def test_what_is_no_rotary_embedding(module, rows):
    with PositionWatch([module]) as watch:
        module(rows)
    assert watch.rotary == {} and watch.found == {}


@pytest.mark.parametrize("module", [Waves(), Reader(lambda m, rows: m.table.index_select(0, rows[0]))])
def test_shifts_of_each_row_need_rows_to_shift(module):
    function = "mul" if isinstance(module, Waves) else "index_select"
    table = None if isinstance(module, Waves) else module.table
    with pytest.raises(NotImplementedError, match="the positions of all rows up at once"):  # noqa: SIM117
        with Shift(table, function, torch.tensor([[0], [SHIFT]])):
            module(torch.arange(TOKENS)[None])


def test_no_tokens_have_no_positions_to_shift():
    module = Reader(WAYS["embedding"][0])
    with Shift(module.weight, "embedding", SHIFT):
        assert module(positions()[:, :0]).shape == (1, 0, WIDTH)
