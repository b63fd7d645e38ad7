"""How much of every query's attention each virtual token gets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .joined import joined
from .terms import AttentionCall, Prefix, PrefixRows


@torch.no_grad()
def prefix_weights(call: AttentionCall, prefix: Prefix | PrefixRows) -> Tensor:
    """The share (B, H, T, P) of every query's softmax that falls to each virtual token, in float32.

    With l_p, l_s the log-sum-exp of a query's scores over the prefix and over the sequence, the shares of its virtual
    tokens sum to sigmoid(l_p - l_s). The model's own function is asked for them: where the values are unit vectors at
    the prefix and 0 at the sequence, what it returns are its weights. So masks, windows, position biases, sinks and
    caps are the model's, whichever form its attention takes.

    A gate counts as in `joined.gated`: the share is |g_j| z_j over Z + sum_j |g_j| z_j.
    """
    whole = prefix.dense() if isinstance(prefix, PrefixRows) else prefix
    call = _in_float(call)
    rows, groups, length, _ = whole.key.shape
    units = torch.eye(length, dtype=call.key.dtype, device=call.key.device).expand(rows, groups, -1, -1)
    nothing = call.key.new_zeros(*call.key.shape[:3], length)
    shares, _ = joined(call._replace(value=nothing), whole._replace(value=units))
    shares = shares.transpose(1, 2)
    if whole.gate is None:
        return shares
    gate = whole.gate.abs().repeat_interleave(shares.shape[1] // groups, dim=1).unsqueeze(2)
    opened = gate * shares
    rest = 1 - shares.sum(-1, keepdim=True) + opened.sum(-1, keepdim=True)
    return opened / rest.clamp_min(torch.finfo(shares.dtype).eps)


def _in_float(call: AttentionCall) -> AttentionCall:
    """In float32 where the model has fewer digits, and without dropout."""
    dtype = torch.promote_types(call.query.dtype, torch.float32)

    def cast(part: Any) -> Any:
        return part.to(dtype) if isinstance(part, Tensor) and part.is_floating_point() else part

    options = {name: cast(option) for name, option in call.options.items()} | {"dropout": 0.0}
    return call._replace(query=cast(call.query), key=cast(call.key), mask=cast(call.mask), options=options)
