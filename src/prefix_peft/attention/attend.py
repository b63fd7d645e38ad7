"""Which form of the equation an attention takes: `joined`, right with everything, or `merged`, the fast one."""

from __future__ import annotations

from torch import Tensor
from torch.compiler import is_exporting

from .joined import gated, joined
from .kernels import why_no_kernel
from .merged import merged
from .terms import AttentionCall, Prefix, PrefixRows
from .tried import try_kernels

SERVED = ("eager", "sdpa", "flex_attention")
FORMS = ("auto", "joined", "merged")


def attend_with_prefix(
    call: AttentionCall, prefix: Prefix | PrefixRows, form: str = "auto"
) -> tuple[Tensor, Tensor | None]:
    """Attention over the prefix and over the sequence, as one softmax; returns what ``call.run()`` returns.

    Args:
        call: the attention of the sequence alone.
        prefix: of all rows, or of each.
        form: 'joined', 'merged', or 'auto' for the faster one that is possible.

    Raises:
        NotImplementedError: an attention function to which no prefix can be given yet, or 'merged' where it cannot be.
    """
    if call.implementation.removeprefix("paged|") not in SERVED:
        raise NotImplementedError(
            f"{type(call.module).__name__} runs attn_implementation={call.implementation!r}, to which no prefix can be "
            f"given yet; load the model with attn_implementation= one of {list(SERVED)}."
        )
    obstacle = why_joined(call, prefix, form)
    if form == "merged" and obstacle:
        raise NotImplementedError(
            f"attention_form='merged' is not possible in {type(call.module).__name__}: {obstacle}. Leave it at 'auto'."
        )
    if not obstacle:
        return merged(call, prefix), None
    whole = prefix.dense() if isinstance(prefix, PrefixRows) else prefix
    return joined(call, whole) if whole.gate is None else gated(call, whole)


def why_joined(call: AttentionCall, prefix: Prefix | PrefixRows, form: str = "auto") -> str:
    """Why this attention is `joined`, in words; '' where it is merged."""
    if form == "joined":
        return "attention_form='joined' was asked for"
    if is_exporting():
        return "an exported graph must not be bound to the kernels of one device"
    if call.implementation != "sdpa":
        return f"attn_implementation={call.implementation!r} keeps the log-sum-exp of its scores to itself"
    for part in prefix.prefixes if isinstance(prefix, PrefixRows) else (prefix,):
        if part.gate is not None or part.visible is not None:
            return "the prefix has a gate, or is hidden from some queries"
    query, key, mask = call.query, call.key, call.mask
    if call.options.get("dropout") or call.options.get("position_bias") is not None:
        return "the attention has dropout or a position bias"
    if mask is not None and (not isinstance(mask, Tensor) or mask.requires_grad):
        return "the mask is learned, or not a tensor"
    (rows, heads, *_), (key_rows, groups, *_) = query.shape, key.shape
    if rows != key_rows or heads % groups:
        return "queries and keys do not go together row by row and head by head"
    return why_no_kernel(query, key, call.value) or try_kernels(query.device.type, query.dtype)
