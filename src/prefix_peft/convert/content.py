"""What a prefix is in any format: keys and values at each site, and where the text behind them begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..anatomy.sites import Site
from ..anatomy.watching import anatomy_of
from ..one_pass import KeysValues


@dataclass(frozen=True)
class Content:
    """A prefix: by site name keys (G, P, D_k) and values (G, P, D_v).

    ``behind``: the text begins at position P, as it does behind a cache; otherwise where it would without a prefix.
    """

    parts: KeysValues
    behind: bool
    num_frozen_tokens: int = 0

    @property
    def length(self) -> int:
        """P."""
        return next(iter(self.parts.values()))[0].shape[1]


def sites_of(model: PreTrainedModel, role: str) -> list[Site]:
    """The model's attention modules of one role, layer by layer."""
    return [site for site in anatomy_of(model).sites.values() if site.role == role]


def own_role(model: PreTrainedModel) -> str:
    """The role of the layers that a cache belongs to: the decoder's, or an encoder's that stands alone."""
    return "decoder" if sites_of(model, "decoder") else "encoder"


def common_shape(sites: list[Site], what: str) -> tuple[int, int]:
    """G and D of sites that are all alike.

    Raises:
        ValueError: they are not, as formats that count in one hidden size ask for.
    """
    shapes = {(site.num_key_value_heads, site.key_dim, site.value_dim) for site in sites}
    heads, key_dim, value_dim = next(iter(shapes), (0, 0, 0))
    if len(shapes) != 1 or key_dim != value_dim:
        found = sorted(shapes) or "none"
        raise ValueError(
            f"{what} has one number of heads and one width for all keys and values, but the attention layers of this "
            f"model have (heads, key width, value width) {found}."
        )
    return heads, key_dim


def from_rows(rows: Tensor, sites: list[Site], where: str) -> KeysValues:
    """``rows`` (P, 2 L G D), keys before values in each layer, as keys and values (G, P, D) of ``sites``.

    Raises:
        ValueError: other numbers than the model's.
    """
    heads, dim = common_shape(sites, where)
    needed = 2 * len(sites) * heads * dim
    if rows.dim() != 2 or rows.shape[1] != needed or not len(rows):
        raise ValueError(
            f"{where} is {tuple(rows.shape)}, the model needs (P, {needed}): 2 x {len(sites)} layers x {heads} "
            f"key/value heads x {dim}. It was made for another base model."
        )
    both = rows.float().view(len(rows), len(sites), 2, heads, dim).permute(1, 2, 3, 0, 4)
    return {site.name: (part[0].contiguous(), part[1].contiguous()) for site, part in zip(sites, both, strict=True)}


def to_rows(parts: KeysValues, sites: list[Site], what: str) -> Tensor:
    """The reverse: (P, 2 L G D)."""
    common_shape(sites, what)
    both = torch.stack([torch.stack(parts[site.name]) for site in sites])  # (L, 2, G, P, D)
    return both.permute(3, 0, 1, 2, 4).flatten(1).contiguous()
