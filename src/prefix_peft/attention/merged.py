"""`merged`: prefix and sequence are attended to apart, and put together as the one softmax that they are.

With o_s, l_s the attention over the sequence and the log-sum-exp of its scores, and o_p, l_p those over the prefix,

    out = (exp(l_s) o_s + exp(l_p) o_p) / exp(l),    l = log(exp(l_s) + exp(l_p)).

The prefix is read once for all rows and all heads of a group, which are so many queries of it (Juravsky et al. 2024,
Hydragen), and the sequence is attended to as if there were none: no mask is built, no key is copied. The backward of
flash attention (Dao et al. 2022, algorithm 4) knows the forward by ``out`` and ``l`` alone, so each part's is run with
those of the whole, as in ring attention (Liu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kernels import attend, differentiate
from .terms import AttentionCall, Prefix, PrefixRows

SHORT = 64  # virtual tokens


class Over(NamedTuple):
    """How queries attend to some keys: what `attend` takes besides the tensors."""

    mask: Tensor | None = None  # additive
    causal: bool = False
    scale: float | None = None

    def without_mask(self) -> Over:
        return self._replace(mask=None)


class Part(NamedTuple):
    """Which rows see a prefix, and how."""

    rows: Tensor | None  # (n,) of them, None for all
    over: Over


def merged(call: AttentionCall, prefix: Prefix | PrefixRows) -> Tensor:
    """Attention (B, T, H, D) over the sequence and each row's prefix, unless `attend.why_joined` has a reason."""
    query, key, value = call.query, call.key, call.value
    over = Over(_additive(call.mask, query, key.shape[2]), call.is_causal(), call.options.get("scaling"))
    if over.causal and key.shape[2] > query.shape[2]:  # an empty static cache is longer than what it holds
        key, value = (tensor[:, :, : query.shape[2]] for tensor in (key, value))
    parts, pairs = _parts(prefix, query, over.scale)
    tensors = [query, key, value, *(side.to(key.dtype) for pair in pairs for side in pair)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        out = Merged.apply(over, parts, *tensors)
    else:
        out = _forward(over, parts, tensors, keep=False)[0]
    return out.transpose(1, 2).contiguous()


def over_both(query: Tensor, key: Tensor, value: Tensor, p_key: Tensor, p_value: Tensor, scale: float | None) -> Tensor:
    """Attention (B, T, H, D) over the sequence and a prefix (B, G, P, D), all of which every query sees."""
    out, lse, _ = attend(query, key, value, None, False, scale)
    own, l_own, _ = attend(query, p_key, p_value, None, False, scale)
    return _put_together(out, lse, own, l_own, keep=False)[0].transpose(1, 2).contiguous()


class Merged(torch.autograd.Function):
    """The two passes over (query, key, value, p_key, p_value, p_key, ...)."""

    @staticmethod
    def forward(ctx: Any, over: Over, parts: Sequence[Part], *tensors: Tensor) -> Tensor:
        out, lse, ctx.rests = _forward(over, parts, tensors, keep=True)
        ctx.over, ctx.parts = over.without_mask(), [part._replace(over=part.over.without_mask()) for part in parts]
        masks = [over.mask, *(part.over.mask for part in parts)]  # saved, so that a checkpointed layer lets go of them
        ctx.save_for_backward(*masks, out, lse, *tensors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, count = ctx.saved_tensors, 1 + len(ctx.parts)  # which may be asked for only once
        (mask, *masks), (out, lse, query, key, value, *prefixes) = saved[:count], saved[count:]
        over = ctx.over._replace(mask=mask)
        parts = [part._replace(over=part.over._replace(mask=own)) for part, own in zip(ctx.parts, masks, strict=True)]
        rest, *rests = ctx.rests
        d_query, d_key, d_value = None, None, None
        if any(ctx.needs_input_grad[2:5]):  # not at the first layer of a frozen model
            d_query, d_key, d_value = differentiate(grad, query, key, value, out, lse, rest, *over)
        gradients: list[Tensor] = []
        for part, rest, p_key, p_value in zip(parts, rests, prefixes[::2], prefixes[1::2], strict=True):
            of_rows = [tensor if part.rows is None else tensor[part.rows] for tensor in (grad, query, out, lse)]
            keys, values, *seen = _as_seen(p_key, p_value, *of_rows)
            d_out, asked, attended, normaliser = seen
            d_asked, *d_prefix = differentiate(d_out, asked, keys, values, attended, normaliser, rest, *part.over)
            gradients += [gradient.sum_to_size(p_key.shape) for gradient in d_prefix]
            if d_query is not None:
                d_rows = _as_rows(d_asked, of_rows[1].shape)
                d_query = d_query + d_rows if part.rows is None else d_query.index_add(0, part.rows, d_rows)
        return None, None, d_query, d_key, d_value, *gradients


def _forward(
    over: Over, parts: Sequence[Part], tensors: Sequence[Tensor], *, keep: bool
) -> tuple[Tensor, Tensor, list[Any]]:
    """Attention (B, H, T, D), its log-sum-exp (B, H, T), complete only if ``keep``, and what backward passes want."""
    query, key, value, *prefixes = tensors
    out, lse, rest = attend(query, key, value, *over)
    rests = [rest]
    for part, p_key, p_value in zip(parts, prefixes[::2], prefixes[1::2], strict=True):
        asking = query if part.rows is None else query[part.rows]
        keys, values, asked = _as_seen(p_key, p_value, asking)
        seen, l_seen, rest = attend(asked, keys, values, *part.over)
        own, l_own = _as_rows(seen, asking.shape), _as_rows(l_seen, asking.shape[:3])
        rests.append(rest)
        if part.rows is None:
            out, lse = _put_together(out, lse, own, l_own, keep)
        else:  # each row has one prefix, so no other part asks for what is written here
            both, l_both = _put_together(out[part.rows], lse[part.rows], own, l_own, keep)
            out, lse = out.index_copy(0, part.rows, both), lse.index_copy(0, part.rows, l_both)
    return out, lse, rests


def _put_together(out: Tensor, lse: Tensor, own: Tensor, l_own: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    share = torch.sigmoid(lse - l_own).unsqueeze(-1)
    if out.dtype == share.dtype:
        both = torch.lerp(own, out, share)
    else:
        both = torch.lerp(own.to(share.dtype), out.to(share.dtype), share).to(out.dtype)
    return both, torch.logaddexp(lse, l_own) if keep else lse


def _as_seen(p_key: Tensor, p_value: Tensor, *of_rows: Tensor) -> tuple[Tensor, ...]:
    """Keys and values (1 or n, G, P, D) of a prefix, and tensors (n, H, T, ...) of the rows that see it, for a kernel.

    All rows and heads of a group are so many queries of one prefix, (1, G, n H/G T, ...). To put them so takes a few
    copies, which a short prefix is not worth: it is shown to each row, as one's own prefix is.
    """
    rows, groups = of_rows[0].shape[0], p_key.shape[1]
    if rows == p_key.shape[0]:
        return p_key, p_value, *of_rows
    if p_key.shape[2] <= SHORT:
        return p_key.expand(rows, -1, -1, -1), p_value.expand(rows, -1, -1, -1), *of_rows
    packed = (tensor.reshape(rows, groups, -1, *tensor.shape[3:]).transpose(0, 1) for tensor in of_rows)
    return p_key, p_value, *(tensor.reshape(1, groups, -1, *tensor.shape[3:]) for tensor in packed)


def _as_rows(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Back from `_as_seen`, to the shape that it was before."""
    if tensor.shape == shape:
        return tensor
    return tensor.reshape(tensor.shape[1], shape[0], -1, *shape[3:]).transpose(0, 1).reshape(shape)


def _parts(
    prefix: Prefix | PrefixRows, query: Tensor, scale: float | None
) -> tuple[list[Part], list[tuple[Tensor, Tensor]]]:
    """The parts of the batch, and the keys and values (1 or n, G, P, D) that each sees."""
    if isinstance(prefix, Prefix):
        return [Part(None, Over(scale=scale))], [(prefix.key, prefix.value)]
    rows = [[row for row, which in enumerate(prefix.choice) if which == n] for n in range(len(prefix.prefixes))]
    if len(rows) > 1 and max(map(len, rows)) == 1:  # all different: side by side, instead of one after the other
        return _side_by_side(prefix.prefixes, [row for (row,) in rows], query, scale)
    parts = [Part(_index(own, query), Over(scale=scale)) for own in rows]
    return parts, [(part.key, part.value) for part in prefix.prefixes]


def _side_by_side(
    prefixes: Sequence[Prefix], rows: list[int], query: Tensor, scale: float | None
) -> tuple[list[Part], list[tuple[Tensor, Tensor]]]:
    lengths = [part.key.shape[2] for part in prefixes]
    longest, mask = max(lengths), None
    if min(lengths) < longest:
        beyond = torch.arange(longest) >= torch.tensor(lengths)[:, None, None, None]
        mask = torch.zeros(beyond.shape).masked_fill(beyond, torch.finfo(query.dtype).min).to(query)
        mask = mask.expand(-1, -1, query.shape[2], -1)
    key, value = (
        torch.cat([F.pad(getattr(part, side), (0, 0, 0, longest - part.key.shape[2])) for part in prefixes])
        for side in ("key", "value")
    )
    return [Part(_index(rows, query), Over(mask, scale=scale))], [(key, value)]


def _index(rows: list[int], query: Tensor) -> Tensor | None:
    return None if rows == list(range(len(query))) else torch.tensor(rows, device=query.device)


def _additive(mask: Tensor | None, query: Tensor, keys: int) -> Tensor | None:
    """What is added to the scores: finite where nothing is seen, so that a row without any text sees its prefix."""
    if mask is None:
        return None
    mask = mask[..., :keys].expand(-1, -1, query.shape[2], keys)
    lowest = torch.finfo(query.dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, lowest)
    return mask.to(query.dtype).clamp(min=lowest)
