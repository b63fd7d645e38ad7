"""Bottleneck adapters, as in Lin, Madotto & Fung (2020), who build on Houlsby et al. (2019).

Behind each layer, h + W_U ReLU(W_D LN(h)). W_U starts at zero, so that the start is the base model exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .settings import Settings
from .weights import layers_of

CHILD = "bottleneck"


class Bottleneck(nn.Module):
    """A residual MLP (..., d) -> (..., m) -> (..., d) behind a layer norm, in float32 whatever the base is in."""

    def __init__(self, size: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, dtype=torch.float32)
        self.down = nn.Linear(size, bottleneck, dtype=torch.float32)
        self.up = nn.Linear(bottleneck, size, dtype=torch.float32)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        change = self.up(torch.relu(self.down(self.norm(hidden.to(self.up.weight.dtype)))))
        return hidden + change.to(hidden.dtype)


def add_adapters(base: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """A bottleneck behind every layer of the base, those of an encoder as well."""
    for layer in layers_of(base):
        bottleneck = Bottleneck(base.config.hidden_size, settings.bottleneck)
        layer.add_module(CHILD, bottleneck.to(base.device))
        layer.register_forward_hook(_pass_through)
    return base


def _pass_through(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """What the layer returns, its hidden states changed; some layers return a tuple that begins with them."""
    bottleneck = layer.get_submodule(CHILD)
    if isinstance(output, tuple):
        return bottleneck(output[0]), *output[1:]
    return bottleneck(output)
