"""Attention written by hand in many ways, and what a prefix makes of it by definition."""

import math
from functools import partial

import reference
import torch
import torch.nn.functional as F
from torch import nn

from prefix_peft.anatomy.sites import Site
from prefix_peft.attention.terms import Prefix
from prefix_peft.by_hand.modes import Serve

B, H, P, T, S, D, V = 2, 3, 4, 5, 6, 7, 8  # V: head dim of the values
SCALE = D**-0.5
LOWEST = torch.finfo(torch.float32).min


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ALLOWED = torch.ones(B, T, S, dtype=torch.bool).tril(S - T)
ALLOWED[1, :, 0] = False  # a padded row
BIAS = draw(H, T, S, seed=5)
PLACES = draw(B, H, S, D, seed=6)  # what the scores of positions are made with
FORBIDDEN = torch.where(ALLOWED, 0.0, LOWEST)[:, None]


def merged(tensor):
    """(B, H, ...) -> (B x H, ...)"""
    return tensor.flatten(0, 1)


def apart(tensor):
    """And back."""
    return tensor.unflatten(0, (B, -1))


def first(tensor):
    """(B, H, T, D) -> (T, B, H, D)"""
    return tensor.permute(2, 0, 1, 3)


class Hand(nn.Module):
    """Attention in five steps, any of which may be written otherwise; (B, H, T, V)"""

    def __init__(self, **steps):
        super().__init__()
        vars(self).update(steps)

    def scores(self, q, k):
        return q @ k.transpose(-1, -2)

    def scale(self, s):
        return s * SCALE

    def mask(self, s):
        return s + FORBIDDEN

    def softmax(self, s):
        return s.softmax(-1)

    def values(self, w, v):
        return w @ v

    def forward(self, q, k, v):
        return self.values(self.softmax(self.mask(self.scale(self.scores(q, k)))), v)


def written(function, *args, **kwargs):
    """``function`` as a step: what it is given comes first."""
    return lambda x, *more: function(x, *more, *args, **kwargs)


def in_place(operate):
    def step(s):
        s = s.clone()  # of which the softmax's own backward pass knows nothing
        operate(s)
        return s

    return step


def divided(s):
    s /= 1 / SCALE
    return s


def multiplied(s):
    s *= SCALE
    return s


def forbidden_by_setting(s):
    s = s.clone()
    s[~ALLOWED[:, None].expand_as(s)] = LOWEST
    return s


def sparse_values(w, v):
    """BigBird's: weights in slices, each with its own values."""
    return w[..., :2] @ v[:, :, :2] + torch.einsum("bhts,bhsv->bhtv", w[..., 2:], v[:, :, 2:])


def blocks(w, v):
    return (w[:, :, :, None] @ v[:, :, None])[:, :, :, 0]


def added_up(s):
    """The softmax written out."""
    return torch.exp(s - torch.logsumexp(s, dim=-1, keepdim=True))


def with_keys_in_front(equation):
    return lambda q, k: torch.einsum(equation, k, q)


WAYS = {
    "matmul": {},
    "torch.matmul": {"scores": lambda q, k: torch.matmul(q, k.mT), "values": torch.matmul},
    "keywords": {
        "scores": lambda q, k: torch.matmul(input=q, other=k.mT),
        "softmax": lambda s: F.softmax(input=s, dim=-1),
        "values": lambda w, v: torch.matmul(input=w, other=v),
    },
    "bmm keywords": {
        "scores": lambda q, k: apart(torch.bmm(input=merged(q), mat2=merged(k).mT)),
        "values": lambda w, v: apart(torch.bmm(merged(w), mat2=merged(v))),
    },
    "bmm": {
        "scores": lambda q, k: apart(torch.bmm(merged(q), merged(k).mT)),
        "values": lambda w, v: apart(torch.bmm(merged(w), merged(v))),
    },
    "mask beside merged heads": {
        "scores": lambda q, k: torch.bmm(merged(q), merged(k).mT),
        "mask": lambda s: merged(apart(s) + FORBIDDEN),
        "values": lambda w, v: apart(torch.bmm(w, merged(v))),
    },
    "baddbmm": {
        "scores": lambda q, k: apart(
            merged(FORBIDDEN.expand(B, H, T, S)).baddbmm(batch1=merged(q), batch2=merged(k).mT, beta=1.0, alpha=SCALE)
        ),
        "scale": lambda s: s,
        "mask": lambda s: s,
    },
    "torch.baddbmm": {
        "scores": lambda q, k: apart(torch.baddbmm(torch.zeros(1), merged(q), merged(k).mT, beta=0, alpha=SCALE)),
        "scale": lambda s: s,
    },
    "time in front": {
        "scores": lambda q, k: torch.einsum("ibnd,jbnd->bnij", first(q), first(k)),
        "values": lambda w, v: torch.einsum("bnij,jbnd->ibnd", w, first(v)).permute(1, 2, 0, 3),
    },
    "heads behind": {
        "scores": lambda q, k: torch.einsum("...qhd,...khd->...hqk", q.transpose(1, 2), k.transpose(1, 2)),
        "values": lambda w, v: torch.einsum("...hqk,...khd->...qhd", w, v.transpose(1, 2)).transpose(1, 2),
    },
    "blocks in front": {
        "scores": lambda q, k: torch.einsum("...hqd,...hkd->...hqk", q[:, None], k[:, None])[:, 0],
        "values": lambda w, v: torch.einsum("...hqk,...hkd->...hqd", w[:, None], v[:, None])[:, 0],
    },
    "keys in front": {
        "scores": lambda q, k: torch.einsum("b h k d, b h q d -> b h q k", [k, q]),
        "values": lambda w, v: torch.einsum("bhsv,bhts->bhtv", v, w),
    },
    "a block a query": {
        "scores": lambda q, k: (q[:, :, :, None] @ k.mT[:, :, None])[:, :, :, 0],
        "values": blocks,
    },
    **{
        f"heads behind, {name}": {
            "scores": lambda q, k, turn=turn: turn(q @ k.mT),
            "mask": lambda s: s + FORBIDDEN.transpose(1, 2),
            "values": lambda w, v: torch.einsum("bths,bhsv->bhtv", w, v),
        }
        for name, turn in {
            "transpose": lambda s: s.transpose(1, 2),
            "permute": lambda s: s.permute(0, 2, 1, 3),
            "swapdims": lambda s: s.swapdims(2, 1),
            "moveaxis": lambda s: torch.moveaxis(s, 1, 2),
        }.items()
    },
    "scaled before": {"scores": lambda q, k: (q * SCALE) @ k.mT, "scale": lambda s: s},
    "divided": {"scale": lambda s: s / math.sqrt(D)},
    "torch.div": {"scale": written(torch.div, math.sqrt(D))},
    "true_divide": {"scale": written(torch.true_divide, math.sqrt(D))},
    "from the left": {"scale": lambda s: SCALE * s},
    "by a keyword": {"scale": lambda s: torch.mul(s, other=torch.tensor(SCALE))},
    "by a tensor": {"scale": lambda s: s / torch.full([1], D).sqrt()},
    "by a tensor each head": {"scale": lambda s: torch.mul(torch.full([H, 1, 1], SCALE), s)},
    "/=": {"scale": in_place(divided)},
    "*=": {"scale": in_place(multiplied)},
    "div_": {"scale": in_place(lambda s: s.div_(math.sqrt(D)))},
    "mul_": {"scale": in_place(lambda s: s.mul_(SCALE))},
    "divide_": {"scale": in_place(lambda s: s.divide_(math.sqrt(D)))},
    "multiply_": {"scale": in_place(lambda s: s.multiply_(SCALE))},
    "masked_fill": {"mask": lambda s: s.masked_fill(~ALLOWED[:, None], -1e9)},
    "masked_fill_": {"mask": in_place(lambda s: s.masked_fill_(~ALLOWED[:, None], LOWEST))},
    "multiplied by the mask": {"mask": lambda s: s * ALLOWED[:, None] - 1e9 * (1 - ALLOWED[:, None].float())},
    "where": {"mask": lambda s: torch.where(ALLOWED[:, None], s, torch.full_like(s, LOWEST))},
    "item by item": {"mask": forbidden_by_setting},
    "never below": {"mask": lambda s: torch.max(s + FORBIDDEN, torch.tensor(LOWEST))},
    "+=": {"mask": in_place(lambda s: s.add_(FORBIDDEN))},
    "F.softmax": {"softmax": partial(F.softmax, dim=-1)},
    "torch.softmax": {"softmax": written(torch.softmax, 3)},
    "nn.Softmax": {"softmax": nn.Softmax(dim=-1)},
    "float32 and back": {"softmax": lambda s: F.softmax(s, dim=-1, dtype=torch.float32).to(s.dtype)},
    "double and back": {"softmax": lambda s: s.double().softmax(-1).float()},
    "float first": {"softmax": lambda s: F.softmax(s.float(), dim=-1).type_as(s)},
    "written out": {"softmax": added_up},
    "dropout": {"softmax": lambda s: F.dropout(s.softmax(-1), 0.3, training=False)},
    "multiplied weights": {"softmax": lambda s: s.softmax(-1) * torch.ones(H, 1, 1)},
    "slices": {"values": sparse_values},
}


def grouped(tensor):
    """(B, H, T, D) -> (B, G, H / G, T, D)"""
    return tensor.unflatten(1, (1, H))


SHARED_KEYS = {
    "broadcast": {},
    "einsum": {
        "scores": lambda q, k: torch.einsum("bhtd,bsd->bhts", q, k[:, 0]),
        "values": lambda w, v: torch.einsum("bhts,bsv->bhtv", w, v[:, 0]),
    },
    "groups": {
        "scores": lambda q, k: (grouped(q) @ k.mT[:, :, None]).flatten(1, 2),
        "values": lambda w, v: (grouped(w) @ v[:, :, None]).flatten(1, 2),
    },
    "heads among the queries": {
        "scores": lambda q, k: (q.flatten(1, 2) @ k[:, 0].mT).unflatten(1, (H, T)),
        "values": lambda w, v: (w.flatten(1, 2) @ v[:, 0]).unflatten(1, (H, T)),
    },
}


EXPERTS = nn.Parameter(draw(H, D, V, seed=7), requires_grad=False)
NO_ATTENTION = {
    "a router": lambda q, k, v: (q @ EXPERTS[None]).softmax(-1) @ k.new_ones(B, H, V, 2),
    "weights of another shape": lambda q, k, v: (q @ EXPERTS.transpose(-1, -2).mT[None]).softmax(-1) @ EXPERTS.mT,
    "learned values": lambda q, k, v: (q @ k.mT).softmax(-1) @ nn.Parameter(v),
    "matrices": lambda q, k, v: (q[0, 0] @ k[0, 0].mT).softmax(-1) @ v[0, 0],
    "over the queries": lambda q, k, v: (q @ k.mT).softmax(-2) @ v,
    "without a softmax": lambda q, k, v: (q @ k.mT) @ v,
    "without scores": lambda q, k, v: q.softmax(-1) @ k.mT,
    "without values": lambda q, k, v: (q @ k.mT).softmax(-1),
    "other content": lambda q, k, v: torch.ones_like(q @ k.mT).softmax(-1) @ v,
    "a sum": lambda q, k, v: torch.einsum("bhtd,bhsd->bts", q, k).softmax(-1) @ v[:, 0],
    "turned": lambda q, k, v: (k[:, :, :T] @ q.mT).mT.softmax(-1) @ v[:, :, :T],
    "turned by a transposition": lambda q, k, v: (k[:, :, :T] @ q.mT).transpose(-1, -2).softmax(-1) @ v[:, :, :T],
    "a row of scores": lambda q, k, v: (q @ k.mT)[:, :, 0].softmax(-1)[:, :, None] @ v,
    "a part of a weight": lambda q, k, v: (q @ EXPERTS[None, ..., :S]).softmax(-1) @ v,
    "two sums": lambda q, k, v: torch.einsum("bhtd,bhtd->bht", q, q).softmax(-1) @ q[:, 0],
    "squares": lambda q, k, v: (lambda s: s * s)(q @ k.mT),
    "exponentials": lambda q, k, v: (q @ k.mT).exp() @ v,
    "of the same type": lambda q, k, v: PLACES.new_ones(B, H, T, S).type_as(q @ k.mT).softmax(-1) @ v,
    "an equation without a result": lambda q, k, v: torch.einsum("bhtd,bhsd", q, k),
    "one operand": lambda q, k, v: torch.einsum("bhtd->bthd", q),
}


def prefix(rows: int = 1, heads: int = H, gate: torch.Tensor | None = None, lengths: list[int] | None = None) -> Prefix:
    visible = None if lengths is None else (torch.arange(P) < torch.tensor(lengths)[:, None])[:, None]
    gate = None if gate is None else gate[None, :, None].expand(rows, -1, P)
    return Prefix(draw(rows, heads, P, D, seed=3), draw(rows, heads, P, V, seed=4), gate, visible)


def qkv(heads: int = H):
    return draw(B, H, T, D, seed=0), draw(B, heads, S, D, seed=1), draw(B, heads, S, V, seed=2)


def served(hand, given, heads=H, key_bias=False, inputs=None):
    """(B, T, H, V)"""

    def give(batch):
        assert batch == B
        return given

    site = Site("", "decoder", heads, D, V, by_hand=True, key_bias=key_bias)
    with Serve(hand, site, give):
        return hand(*(inputs or qkv(heads))).transpose(1, 2)


def expected(given, heads=H, bias=None, allowed=ALLOWED, gate=None):
    """The same by definition; bias (B, H, T, S)."""
    rows = []
    for b, row in enumerate(zip(*(tensor.split(1) for tensor in qkv(heads)), allowed.split(1), strict=True)):
        b_prefix = b % len(given.key)
        shown = slice(None) if given.visible is None else given.visible[b_prefix, 0]
        keys, values = given.key[b_prefix][:, shown], given.value[b_prefix][:, shown]
        rows.append(reference.attention(*row, [keys], [values], gate, None if bias is None else bias[b]))
    return torch.cat(rows).float()
