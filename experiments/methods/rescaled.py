"""Learning rates of their own for the keys and the values of a prefix, and for each attention layer.

P = P_0 + c (P_theta - P_0), where P_0 is what P_theta was at the start. A step of Adam does not depend on the scale of
its gradient, so a flat prefix moves c times as far in each step as it would by itself; the loop knows nothing of it.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor, nn

from prefix_peft.layer import prefix_layers

from .settings import Settings

CHILD = "rescaling"


class Rescaling(nn.Module):
    """A hook of one site's encoder: what training has changed counts ``factors`` times, in keys and in values."""

    def __init__(self, start: tuple[Tensor, Tensor], factors: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.factors = factors
        for name, part in zip(("key", "value"), start, strict=True):
            self.register_buffer(name, part.clone(), persistent=False)

    def forward(self, encoder: nn.Module, args: tuple[()], p: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """P_K (G, P, D_k) and P_V (G, P, D_v) of these."""
        starts = (self.get_buffer("key"), self.get_buffer("value"))
        return tuple(start + c * (part - start) for start, c, part in zip(starts, self.factors, p, strict=True))


def rescale(model: PeftModel, settings: Settings) -> PeftModel:
    """Let the prefix move as ``key_scale``, ``value_scale`` and ``relative_scale`` say, from where it stands."""
    scales = (settings.key_scale, settings.value_scale)
    if scales == (1.0, 1.0) and not settings.relative_scale:
        return model
    for layer in prefix_layers(model):
        encoder = layer.encoder("default")
        with torch.no_grad():
            start = encoder()
            relative = settings.relative_scale
            sizes = [part.square().mean().sqrt() if relative else part.new_ones(()) for part in start]
        rescaling = Rescaling(start, (scales[0] * sizes[0], scales[1] * sizes[1]))
        encoder.add_module(CHILD, rescaling)
        encoder.register_forward_hook(rescaling)
    return model
