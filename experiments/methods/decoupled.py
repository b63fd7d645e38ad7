"""Prefix-Tuning+ (Wang et al., 2506.13674): the prefix leaves the softmax, so that it and the text take no share from
each other.

What attention gives, plus phi(q) M, with phi(q) = elu(q) + 1 (Katharopoulos et al. 2020) of each query as it attends,
and a trained memory M (G, D_k, D_v), which starts at zero, where the model is the base exactly. M stands for the
sum_j phi(k_j) v_j of a prefix of any length; of rank r it has as many numbers as a prefix of r virtual tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefix_peft.anatomy.sites import Site
from prefix_peft.anatomy.watching import anatomy_of
from prefix_peft.config import PrefixConfig
from prefix_peft.model import choose_sites, match_names

from .prefixes import places
from .settings import Settings

CHILD = "memory"
IMPLEMENTATION = "sdpa_beside_memory"


class Memory(nn.Module):
    """M of one site, in float32: itself (G, D_k, D_v), or the product of (G, D_k, r) and (G, r, D_v)."""

    def __init__(self, site: Site, rank: int | None) -> None:
        super().__init__()
        heads, width = site.num_key_value_heads, site.key_dim
        self.left = None if rank is None else nn.Parameter(torch.randn(heads, width, rank) * width**-0.5)
        self.right = nn.Parameter(torch.zeros(heads, width if rank is None else rank, site.value_dim))

    def forward(self, query: Tensor) -> Tensor:
        """phi(q) M (B, T, H, D_v) for queries (B, H, T, D_k)."""
        features = F.elu(query.to(self.right.dtype)) + 1
        grouped = features.unflatten(1, (len(self.right), -1))
        if self.left is not None:
            grouped = grouped @ self.left[:, None]
        return (grouped @ self.right[:, None]).flatten(1, 2).transpose(1, 2)


def add_decoupled(base: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """A memory beside every attention, or those that ``sites`` and ``layers`` name; the base attends by sdpa.

    Raises:
        ValueError: attention that does not ask transformers for its function.
    """
    config, anatomy = PrefixConfig(**places(base, settings)), anatomy_of(base)
    sites = choose_sites(config, anatomy, match_names(config, anatomy), type(base).__name__)
    for name, site in sites.items():
        if site.by_hand or site.turns > 1:
            raise ValueError(
                f"{name} of {type(base).__name__} computes its attention by itself, where no memory can be added; "
                "choose 'prefix', or a base that asks transformers for its attention, such as GPT-2 or BART."
            )
        base.get_submodule(name).add_module(CHILD, Memory(site, settings.memory_rank).to(base.device))
    base.set_attn_implementation(IMPLEMENTATION)
    base.register_forward_pre_hook(_quiet)
    return base


def _quiet(base: nn.Module, args: tuple[Any, ...]) -> None:
    """The base's own dropout is off while a memory trains, as it is while a prefix does."""
    base.eval()


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What sdpa gives, (B, T, H, D_v), and what the module's memory adds."""
    output, weights = sdpa_attention_forward(module, query, key, value, mask, **options)
    memory = module._modules.get(CHILD)
    return (output if memory is None else output + memory(query).to(output.dtype)), weights


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
