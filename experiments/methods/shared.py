"""Keys tied to values: both are made of one latent vector per virtual token, which all sites share.

Le et al. (2410.02200) explain by this what the MLP of the paper does. P_K[i] = P_0K[i] + W_K z_i, and so P_V; z
(P, m) is trained, and so are W_K and W_V of each site, which start at zero: the start is a flat prefix's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from prefix_peft.anatomy.sites import Site
from prefix_peft.layer import prefix_layers

from .settings import Settings

CHILD = "shared_head"


class SharedHead(nn.Module):
    """A hook of one site's encoder, which adds what it makes of the latent (P, m), or (P - k, m) behind k frozen."""

    def __init__(self, latent: nn.Parameter, site: Site) -> None:
        super().__init__()
        self.heads, self.dims = site.num_key_value_heads, (site.key_dim, site.value_dim)
        self.latent = latent  # each site registers it, and it counts once
        self.weight = nn.Parameter(torch.zeros(latent.shape[1], self.heads * sum(self.dims), device=latent.device))

    def forward(self, encoder: nn.Module, args: tuple[()], p: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """P_K (G, P, D_k) and P_V (G, P, D_v) of the encoder's."""
        made = F.pad(self.latent @ self.weight, (0, 0, p[0].shape[1] - len(self.latent), 0))
        added = made.unflatten(-1, (self.heads, sum(self.dims))).transpose(0, 1).split(self.dims, dim=-1)
        return tuple(start + change for start, change in zip(p, added, strict=True))


def share(model: PeftModel, settings: Settings) -> PeftModel:
    """Train a flat prefix through ``latent_size`` numbers per virtual token, in place of P itself."""
    tokens = settings.num_virtual_tokens - settings.num_frozen_tokens
    latent = nn.Parameter(torch.randn(tokens, settings.latent_size).to(model.device))
    for layer in prefix_layers(model):
        encoder = layer.encoder("default")
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name == "p_gate")
        head = SharedHead(latent, layer.site)
        encoder.add_module(CHILD, head)
        encoder.register_forward_hook(head)
    return model
