"""torch's own attention kernels, called where they also give the log-sum-exp of the scores, forward and backward.

``scaled_dot_product_attention`` computes it and keeps it to itself; the operators beneath have names that begin with an
underscore. Whoever uses them tries them first (`tried`), so that a change of theirs is noticed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "cpu": (torch.float64, torch.float32, *HALF),
    "cuda": (torch.float32, *HALF),
}
CUDA_HEAD_DIM, CUDA_MULTIPLE, CUDA_LSE_MULTIPLE = 256, 8, 32  # what the CUDA kernels can do, and pad to

Rest = tuple[Any, ...]  # what a kernel wants back in its backward pass


def why_no_kernel(query: Tensor, key: Tensor, value: Tensor) -> str:
    """Why no kernel fits tensors of this kind; '' where one does."""
    kind, dim = query.device.type, query.shape[-1]
    if query.dtype not in DTYPES.get(kind, ()) or not query.dtype == key.dtype == value.dtype:
        return f"no kernel for {query.dtype} on {kind}"
    if key.shape[-1] != value.shape[-1]:
        return f"keys of {key.shape[-1]} and values of {value.shape[-1]} numbers"
    if kind == "cuda" and (dim > CUDA_HEAD_DIM or dim % CUDA_MULTIPLE):
        return f"a head dim of {dim}"
    return ""


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor, Rest]:
    """Attention (B, H, T, D), the log-sum-exp of its scores (B, H, T), and what `differentiate` wants back.

    query (B, H, T, D), key and value (B, G, S, D), mask None or additive (B or 1, H or 1, T, S); T = S if ``causal``.
    """
    if query.device.type == "cpu":
        kernel = _aten._scaled_dot_product_flash_attention_for_cpu.default
        return *kernel(query, key, value, is_causal=causal, attn_mask=mask, scale=scale), ()
    if mask is None and query.dtype in HALF:
        out, lse, *rest = _aten._scaled_dot_product_flash_attention.default(
            query, key, value, is_causal=causal, scale=scale
        )
        return out, lse[..., : query.shape[2]], tuple(rest[:6])
    key, value = (_for_each_head(tensor, query.shape[1]) for tensor in (key, value))
    out, lse, *rest = _aten._scaled_dot_product_efficient_attention.default(
        query, key, value, _aligned(mask, query, key), True, is_causal=causal, scale=scale
    )
    return out, lse[..., : query.shape[2]], tuple(rest)


def differentiate(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, rest: Rest,
    mask: Tensor | None, causal: bool, scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of query, key and value, where these are all or a part of what gave ``out`` and ``lse``."""
    if query.device.type == "cpu":
        kernel = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        return kernel(grad, query, key, value, out, lse, 0.0, causal, attn_mask=mask, scale=scale)
    if mask is None and query.dtype in HALF:
        kernel = _aten._scaled_dot_product_flash_attention_backward.default
        return kernel(grad, query, key, value, out, lse.contiguous(), *rest[:4], 0.0, causal, *rest[4:], scale=scale)
    groups, heads = key.shape[1], query.shape[1]
    key, value = (_for_each_head(tensor, heads) for tensor in (key, value))
    padded = F.pad(lse, (0, -lse.shape[-1] % CUDA_LSE_MULTIPLE), value=torch.inf)
    d_query, d_key, d_value, _ = _aten._scaled_dot_product_efficient_attention_backward.default(
        grad, query, key, value, _aligned(mask, query, key), out, padded, *rest, 0.0, [True, True, True, False],
        causal, scale=scale,
    )  # fmt: skip
    d_key, d_value = (d.unflatten(1, (groups, heads // groups)).sum(2) for d in (d_key, d_value))
    return d_query, d_key, d_value


def _for_each_head(tensor: Tensor, heads: int) -> Tensor:
    """(B, G, S, D) as (B, H, S, D), for kernels that know no groups."""
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1) if tensor.shape[1] < heads else tensor


def _aligned(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask for all rows and heads, its rows beginning where the memory-efficient kernel can load them."""
    if mask is None:
        return None
    mask = F.pad(mask, (0, -mask.shape[-1] % CUDA_MULTIPLE))[..., : mask.shape[-1]]
    return mask.expand(*query.shape[:3], key.shape[2])
