"""Definitions in loops and float64, for the tests to compare with. Nothing here is fast, and nothing is shared."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor,
    p_key: Tensor,
    p_value: Tensor,
    gate: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax([P_K; K] q) [P_V; V], one query at a time. Returns (B, T, H, D_v).

    query (B, H, T, D), key and value (B, G, S, D), allowed (B, T, S) boolean, p_key and p_value one list entry a row of
    (G, P, D), gate (G,), bias (H, T, S) added to the scores of the sequence.
    """
    batch, heads, queries, dim = query.shape
    groups = heads // key.shape[1]
    out = torch.zeros(batch, queries, heads, value.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            g = h // groups
            for t in range(queries):
                terms = [
                    (
                        weight(query[b, h, t], key[b, g, s], dim, 0.0 if bias is None else bias[h, t, s]),
                        value[b, g, s],
                        1.0,
                    )
                    for s in range(key.shape[2])
                    if allowed[b, t, s]
                ]
                opened = 1.0 if gate is None else float(gate[g])
                terms += [
                    (weight(query[b, h, t], p_key[b][g, p], dim, 0.0), p_value[b][g, p], opened)
                    for p in range(p_key[b].shape[1])
                ]
                mass = sum(abs(share) * z for z, _, share in terms)
                out[b, t, h] = sum(share * z * v.double() for z, v, share in terms) / mass
    return out


def weight(query: Tensor, key: Tensor, dim: int, bias: Tensor | float) -> float:
    """exp(q . k / sqrt(D) + bias)"""
    return math.exp(float(query.double() @ key.double()) / math.sqrt(dim) + float(bias))


def greedy(model: torch.nn.Module, ids: Tensor, steps: int, **kwargs: object) -> Tensor:
    """The most likely continuation by uncached full forward passes."""
    for _ in range(steps):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False, **kwargs).logits[:, -1:].argmax(-1)], dim=1)
    return ids
