"""Both forms of attention over random shapes, against the loop in float64: as exact as plain attention is."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prefix_peft.attention.attend import attend_with_prefix
from prefix_peft.attention.merged import SHORT
from prefix_peft.attention.terms import AttentionCall, Prefix, PrefixRows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]  # the loop is in float64
MASKS = ["none", "boolean", "additive", "infinite", "heads"]


class Attention(nn.Module):
    """What transformers' attention functions ask of a module."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


class Problem(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    prefixes: list[tuple[Tensor, Tensor]]
    choice: list[int]  # of each row, -1 for none
    allowed: Tensor  # (B, T, S)
    mask: Tensor | None
    scale: float | None = None

    @property
    def leaves(self) -> list[Tensor]:
        return [self.query, self.key, self.value, *(side for pair in self.prefixes for side in pair)]

    def of_rows(self) -> tuple[list[Tensor], list[Tensor]]:
        """Each row's keys (G, P, D) and values."""
        nothing = self.key[0, :, :0]
        keys, values = ([nothing if n < 0 else self.prefixes[n][side][0] for n in self.choice] for side in (0, 1))
        return keys, values

    def expected(self) -> Tensor:
        return reference.attention(
            self.query, self.key, self.value, self.allowed, *self.of_rows(), scale=self.scale
        )  # fmt: skip

    def ours(self, form: str) -> Tensor:
        prefixes = [Prefix(key, value) for key, value in self.prefixes]
        together = len(prefixes) == 1 and set(self.choice) == {0}
        given = prefixes[0] if together else PrefixRows(prefixes, self.choice)
        module = Attention(self.query.shape[1] // self.key.shape[1])
        call = AttentionCall(
            sdpa_attention_forward, "sdpa", module, self.query, self.key, self.value, self.mask, {"scaling": self.scale}
        )
        return attend_with_prefix(call, given, form)[0]

    def plain(self) -> Tensor:
        """torch's own arithmetic in the same precision, row by row."""
        rows = []
        for b, (p_key, p_value) in enumerate(zip(*self.of_rows(), strict=True)):
            heads = self.query.shape[1] // self.key.shape[1]
            key = torch.cat([p_key, self.key[b]], dim=1).repeat_interleave(heads, dim=0)
            value = torch.cat([p_value, self.value[b]], dim=1).repeat_interleave(heads, dim=0)
            seen = F.pad(self.allowed[b], (p_key.shape[1], 0), value=True)
            with sdpa_kernel(SDPBackend.MATH):
                rows.append(
                    F.scaled_dot_product_attention(self.query[b], key, value, seen, scale=self.scale).transpose(0, 1)
                )
        return torch.stack(rows)


@st.composite
def problems(draw, kind):
    dtype = draw(st.sampled_from(DTYPES))
    batch, groups, times = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, dim = draw(st.sampled_from([1, 2, 7])), draw(st.sampled_from([4, 8, 20]))
    longer = (kind != "none" or queries == 1) and draw(st.booleans())
    keys = queries + draw(st.integers(1, 40)) if longer else queries
    lengths = draw(st.lists(st.sampled_from([1, 3, SHORT + 6]), min_size=1, max_size=3))
    choice = draw(st.lists(st.integers(-1, len(lengths) - 1), min_size=batch, max_size=batch))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    used = sorted(set(choice) - {-1})  # prefixes that no row has are not handed out
    prefixes = [(numbers(1, groups, lengths[n], dim), numbers(1, groups, lengths[n], dim)) for n in used]
    query = numbers(batch, queries, groups * times, dim).transpose(1, 2)  # laid out as models do
    allowed = torch.ones(batch, queries, keys, dtype=torch.bool)
    if kind == "none":
        allowed = allowed if queries == 1 else allowed.tril()  # what sdpa means by no mask
        mask = None
    else:
        allowed = allowed.tril(keys - queries)
        allowed[0, :, : draw(st.integers(0, keys))] = False  # padding on the left, whose own rows see nothing
        if choice[0] < 0:
            allowed[0, :, -1] |= ~allowed[0].any(-1)  # where there is no prefix either, nothing could be meant
        heads = groups * times if kind == "heads" else 1
        mask = allowed[:, None].expand(-1, heads, -1, -1)
        if kind != "boolean":
            hidden = -torch.inf if kind == "infinite" else torch.finfo(dtype).min
            mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, hidden)
    index = [used.index(n) if n >= 0 else -1 for n in choice]
    key, value = (numbers(batch, groups, keys, dim) for _ in range(2))
    return Problem(query, key, value, prefixes, index, allowed, mask, draw(st.sampled_from([None, 0.1])))


def results(problem: Problem, out: Tensor) -> list[Tensor]:
    """The attention, and the gradients of all that went into it."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out.double() * weights).sum(), problem.leaves)]


@pytest.mark.parametrize("form", ["joined", "merged"])
@pytest.mark.parametrize("kind", MASKS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_shape_is_right_forward_and_backward(kind, form, data):
    problem = data.draw(problems(kind).filter(lambda problem: problem.prefixes))
    ours, plain, truths = (
        results(problem, out) for out in (problem.ours(form), problem.plain(), problem.expected())
    )  # fmt: skip
    size = max(float(truth.abs().max()) for truth in (*truths, *(leaf.detach() for leaf in problem.leaves)))
    terms = problem.key.shape[2] + sum(key.shape[2] for key, _ in problem.prefixes)  # whose roundings add up at random
    for our, their, truth in zip(ours, plain, truths, strict=True):
        assert our.dtype == their.dtype
        rounding = torch.finfo(our.dtype).eps * size * terms**0.5  # plain attention may be right by luck
        error, by_plain = (float((result.double() - truth).abs().max()) for result in (our, their))
        assert error <= 2 * max(by_plain, rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("form", "length"), [("joined", 24), ("merged", 24), ("merged", SHORT + 6)])
def test_no_less_exact_than_plain_attention(form, length, dtype):
    squares = {"ours": torch.zeros(6, dtype=torch.float64), "plain": torch.zeros(6, dtype=torch.float64)}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(2, 4, 32, 16), *[(2, 2, 32, 16)] * 2, *[(1, 2, length, 16)] * 2]
        numbers = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
        allowed = torch.ones(2, 32, 32, dtype=torch.bool).tril()
        problem = Problem(*numbers[:3], [(numbers[3], numbers[4])], [0, 0], allowed, None)
        exact = [number.detach().double().requires_grad_() for number in numbers]
        truth = Problem(*exact[:3], [(exact[3], exact[4])], [0, 0], allowed, None)
        truths = results(truth, truth.plain())
        for name, out in (("ours", problem.ours(form)), ("plain", problem.plain())):
            errors = zip(results(problem, out), truths, strict=True)
            squares[name] += torch.stack([(result.double() - right).square().sum() for result, right in errors])
    assert (squares["ours"].sqrt() <= 2 * squares["plain"].sqrt()).all(), (
        squares["ours"].sqrt() / squares["plain"].sqrt()
    )
