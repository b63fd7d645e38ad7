"""What a wrapped model carries: its sites, the prefixes at each, and which form their attention takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import nn

from .anatomy.sites import Site
from .anatomy.trial import body, equal_tokens, undisturbed
from .anatomy.watching import anatomy_of
from .hook import Call, calling
from .layer import PrefixLayer, prefix_layers


@dataclass(frozen=True)
class SiteReport:
    """One attention module of a wrapped model."""

    site: Site
    lengths: dict[str, int]  # P, by adapter name
    form: str  # 'merged', 'joined' or 'by hand', as in a plain forward pass; 'idle' where no prefix is active
    reason: str  # why not merged, or ''

    def parameters(self, adapter_name: str) -> int:
        """How many numbers the folded prefix has here: P (G D_k + G D_v)."""
        site = self.site
        return self.lengths[adapter_name] * site.num_key_value_heads * (site.key_dim + site.value_dim)


def inspect(model: nn.Module) -> list[SiteReport]:
    """Say of each site of a wrapped model what it carries and how it attends. Runs the model on a few tokens.

    Raises:
        ValueError: a model without any prefix.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = prefix_layers(base)
    if not layers:
        raise ValueError(f"{type(base).__name__} carries no prefix; wrap it first: prefix_peft.wrap(model).")
    reasons: dict[nn.Module, str] = {}
    with undisturbed(base), calling(Call(witness=reasons.__setitem__)):
        body(base)(**equal_tokens(base, anatomy_of(base).source_shape))
    return [_report(layer, reasons.get(layer.get_base_layer())) for layer in layers]


def _report(layer: PrefixLayer, reason: str | None) -> SiteReport:
    form = "by hand" if layer.site.by_hand else "idle" if reason is None else "joined" if reason else "merged"
    lengths = {name: layer.length_of(name) for name in layer.config}
    return SiteReport(layer.site, lengths, form, reason or "")
