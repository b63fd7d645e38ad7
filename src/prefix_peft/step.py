"""One token more behind the same prefix: `merged` without the questions that the step before has answered.

A step of decoding asks so little of each layer that most of what a short prefix costs is to find out what kind of
attention this is. So a layer remembers its last step, and what has to be as it was for the answer to be the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from .attention.attend import why_joined
from .attention.merged import SHORT, over_both
from .attention.terms import AttentionCall, Prefix, PrefixRows
from .config import PrefixConfig
from .encoders import FlatEncoder
from .gathering import is_dtensor
from .layer import PrefixLayer


class Step(NamedTuple):
    """What a layer's last step was: what was asked, and the prefix as it was shown to each row."""

    key: Tensor  # (B, G, P, D), a view of the parameter
    value: Tensor  # the same
    shape: torch.Size  # of the query, (B, H, 1, D)
    dtype: torch.dtype
    scale: float | None
    active: str | list[str]  # PEFT's name or names of the active adapters
    config: dict[str, PrefixConfig]  # the layer's, another when an adapter comes or goes
    form: str
    encoder: FlatEncoder
    places: tuple[int, ...]  # where the parameters lie
    drops: bool  # in training


def again(
    layer: PrefixLayer, implementation: str, query: Tensor, key: Tensor, value: Tensor, mask: Any,
    options: dict[str, Any],
) -> Tensor | None:  # fmt: skip
    """Attention (B, 1, H, D) where this step is like the layer's last; None where it is not."""
    step: Step | None = layer.last_step
    if step is None or mask is not None or is_compiling() or torch.is_grad_enabled() or implementation != "sdpa":
        return None
    if not (_asks_alike(step, query, options) and _stands_alike(step, layer)):
        return None
    return over_both(query, key, value, step.key, step.value, step.scale)


def remember(layer: PrefixLayer, call: AttentionCall, prefix: Prefix | PrefixRows, form: str) -> None:
    """Keep this step for `again`, if it is one of a single flat prefix that is short and merged."""
    if call.mask is not None or call.query.shape[2] > 1 or is_compiling() or torch.is_grad_enabled():
        return
    names, known = layer.active_adapters, layer.prefix_kv_encoder
    encoder = known[names[0]] if len(names) == 1 and names[0] in known else None
    if type(encoder) is not FlatEncoder or isinstance(prefix, PrefixRows) or layer.site.turns > 1:
        return
    short = prefix.key.shape[2] <= SHORT and prefix.key.dtype == call.query.dtype and not is_dtensor(encoder.p_key)
    drops = layer.config[names[0]].prefix_dropout > 0
    if short and not (drops and layer.training) and not why_joined(call, prefix, form):
        rows = call.query.shape[0]
        layer.last_step = Step(
            prefix.key.detach().expand(rows, -1, -1, -1), prefix.value.detach().expand(rows, -1, -1, -1),
            call.query.shape, call.query.dtype, call.options.get("scaling"),
            layer._active_adapter, layer.config, form, encoder, _places(encoder), drops,
        )  # fmt: skip


def _asks_alike(step: Step, query: Tensor, options: dict[str, Any]) -> bool:
    return (
        query.shape == step.shape
        and query.dtype is step.dtype
        and options.get("scaling") == step.scale
        and not options.get("dropout")
        and options.get("position_bias") is None
    )


def _stands_alike(step: Step, layer: PrefixLayer) -> bool:
    return (
        layer.config is step.config
        and layer._active_adapter == step.active
        and not (step.drops and layer.training)
        and layer.attention_form() == step.form
        and _places(step.encoder) == step.places
        and not (_is_hooked(layer) or _is_hooked(step.encoder))
    )


def _places(encoder: FlatEncoder) -> tuple[int, ...]:
    return tuple(parameter.data_ptr() for parameter in encoder._parameters.values() if parameter is not None)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
