"""Definitions in loops and float64, for the tests to compare with. Nothing here is fast, and nothing is shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor,
    p_key: Sequence[Tensor],
    p_value: Sequence[Tensor],
    gate: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax([P_K; K] q) [P_V; V], one query at a time, in float64 and differentiable. Returns (B, T, H, D_v).

    query (B, H, T, D), key and value (B, G, S, D), allowed (B, T, S) boolean, p_key and p_value one list entry a row of
    (G, P, D), gate (G,), bias (H, T, S) added to the scores of the sequence; scale 1/sqrt(D) unless given.
    """
    batch, heads, queries, dim = query.shape
    groups, scale = heads // key.shape[1], dim**-0.5 if scale is None else scale
    rows = []
    for b in range(batch):
        for t in range(queries):
            for h in range(heads):
                g, seen = h // groups, allowed[b, t].nonzero()[:, 0]
                asked, opened = query[b, h, t].double(), 1.0 if gate is None else gate[g].double()
                added = 0.0 if bias is None else bias[h, t, seen].double()
                z = torch.exp(key[b, g, seen].double() @ asked * scale + added)
                z_prefix = torch.exp(p_key[b][g].double() @ asked * scale)
                mass = z.sum() + abs(opened) * z_prefix.sum()
                rows.append((z @ value[b, g, seen].double() + opened * z_prefix @ p_value[b][g].double()) / mass)
    return torch.stack(rows).view(batch, queries, heads, -1)


def greedy(model: torch.nn.Module, ids: Tensor, steps: int, **kwargs: object) -> Tensor:
    """The most likely continuation by uncached full forward passes."""
    for _ in range(steps):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False, **kwargs).logits[:, -1:].argmax(-1)], dim=1)
    return ids
