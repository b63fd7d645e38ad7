"""`joined`: the prefix's keys and values to the left of the sequence's, one call of the model's own function.

It is right with every attention function and mask that transformers has, and costs a copy of the keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from .terms import AttentionCall, Prefix


def joined(call: AttentionCall, prefix: Prefix) -> tuple[Tensor, Tensor | None]:
    """K <- [P_K; K], V <- [P_V; V], and a mask that shows the prefix to every query."""
    batch, _, queries, _ = call.query.shape
    mask, options = call.mask, call.options
    if mask is None and call.implementation == "sdpa":
        mask = _implied_mask(call, prefix.visible is not None)
    elif mask is None and prefix.visible is not None:
        mask = call.query.new_zeros(batch, 1, queries, call.key.shape[2])
    if options.get("position_bias") is not None:
        options = options | {"position_bias": F.pad(options["position_bias"], (prefix.key.shape[2], 0))}
    p_key, p_value = (p.to(call.key.dtype).expand(batch, -1, -1, -1) for p in (prefix.key, prefix.value))
    return call._replace(
        key=torch.cat([p_key, call.key], dim=2),
        value=torch.cat([p_value, call.value], dim=2),
        mask=_widen(mask, prefix, batch, queries, call.key.shape[2]),
        options=options,
    ).run()


def gated(call: AttentionCall, prefix: Prefix) -> tuple[Tensor, Tensor | None]:
    """Attention in which virtual token j counts with weight g_j: exactly the model's own at g = 0, `joined` at g = 1.

    With Z, N the softmax's denominator and numerator over the sequence, and z_j = exp(q . k_j) over the prefix,

        out = (N + sum_j g_j z_j v_j) / (Z + sum_j |g_j| z_j).

    The sign of g_j is that of its value, so no gate is ever stuck at 0. Two calls of the model's own function give it
    all: one over the sequence (N / Z), one over [P; sequence] whose value columns hold g_j v_j, |g_j| and 1 at the
    prefix and 0 at the sequence; what comes back is u = sum g z v, m = sum |g| z and l = sum z, each over Z + sum z.
    """
    assert prefix.gate is not None
    base, weights = call.run()
    gate = prefix.gate.unsqueeze(-1)
    columns = torch.cat([gate * prefix.value, gate.abs(), torch.ones_like(gate)], dim=-1)
    nothing = call.value.new_zeros(*call.value.shape[:3], columns.shape[-1])
    mixed, _ = joined(call._replace(value=nothing), prefix._replace(value=columns))
    own = base.float()
    u, m, ell = mixed.float().split([call.value.shape[-1], 1, 1], dim=-1)
    rest = (1 - ell + m).clamp_min(torch.finfo(own.dtype).eps)  # 0 only for queries that see nothing but a shut prefix
    return (own + (u - m * own) / rest).to(base.dtype), weights


def _implied_mask(call: AttentionCall, needed: bool) -> Tensor | None:
    """The mask that sdpa means by None: everything, or causal from the top left (query t sees keys 0..t).

    The latter has to be written out before keys are put to the left, or sdpa would count the prefix as the first of the
    text; the former only where one is ``needed`` to hide a part of the prefix.
    """
    queries, keys = call.query.shape[2], call.key.shape[2]
    everything = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=call.query.device)
    if not call.is_causal():
        return everything if needed else None
    return everything.tril()


def _widen(mask: Any, prefix: Prefix, batch: int, queries: int, keys: int) -> Any:
    """``mask`` over S keys (None, boolean, additive or a BlockMask) as a mask over P + S keys, for all B rows."""
    length, visible = prefix.key.shape[2], prefix.visible
    if isinstance(mask, BlockMask):
        return _widen_block_mask(mask, length, visible, batch, queries, keys)
    if mask is None:
        return None
    mask = mask[..., :keys].expand(-1, -1, -1, keys)
    shown = torch.ones_like(mask[..., :1]) if mask.dtype == torch.bool else torch.zeros_like(mask[..., :1])
    shown = shown.expand(-1, -1, -1, length)
    if visible is not None:
        mask, shown = (part.expand(batch, -1, -1, -1) for part in (mask, shown))
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        shown = shown.masked_fill(~visible[:, None], hidden)
    return torch.cat([shown, mask], dim=-1)


def _widen_block_mask(
    mask: BlockMask, length: int, visible: Tensor | None, batch: int, queries: int, keys: int
) -> BlockMask:
    """The same for flex attention: keys 0..P-1 are the prefix, the others ask the model's own mask."""
    inner = mask.mask_mod

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        ours = k < length
        if visible is not None:
            ours = ours & visible[b, 0, k.clamp(max=length - 1)]
        return ours | ((k >= length) & inner(b, h, q, (k - length).clamp(min=0)))

    rows = mask.shape[0] if visible is None else batch
    return create_block_mask(mask_mod, rows, None, queries, length + keys, device=mask.kv_num_blocks.device)
