"""Two prefixes beside each other: how alike their keys and values are, by site and by virtual token.

Attention does not know the order of virtual tokens, so two prefixes may do the same and be far apart by their numbers;
for each of the first's the nearest of the second's is looked for as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .release import Release, SitePrefix


@dataclass(frozen=True)
class SiteComparison:
    """One site of both: cosines and relative distances ||A - B|| / ||A|| of all its keys, and of all its values."""

    name: str
    key_cosine: float
    key_distance: float
    value_cosine: float
    value_distance: float


@dataclass(frozen=True)
class Comparison:
    """Of A with B: by site, and by virtual token, where the numbers are means over sites."""

    sites: list[SiteComparison]
    key_cosine: Tensor  # (P,)
    value_cosine: Tensor  # (P,)
    distance: Tensor  # (P,), of key and value together
    nearest: Tensor  # (P,): which virtual token of B is the nearest by the mean of both cosines ...
    nearest_cosine: Tensor  # (P,): ... and this mean


def compare(ours: Release, theirs: Release) -> Comparison:
    """How alike two prefixes for the same base model are.

    Raises:
        ValueError: they have other sites, or these have other shapes, or not all sites have as many virtual tokens.
    """
    others = {site.name: site for site in theirs.sites}
    _check_alike(ours, theirs, others)
    pairs = [(site, others[site.name]) for site in ours.sites]
    keys, values = (torch.stack([_cosines(getattr(a, of), getattr(b, of)) for a, b in pairs]).mean(0) for of in SIDES)
    both = (keys + values) / 2
    nearest_cosine, nearest = both.max(dim=1)
    distance = torch.stack([_distances(a, b) for a, b in pairs]).mean(0)
    return Comparison([_of_site(a, b) for a, b in pairs], keys.diag(), values.diag(), distance, nearest, nearest_cosine)


SIDES = ("key", "value")


def _check_alike(ours: Release, theirs: Release, others: dict[str, SitePrefix]) -> None:
    if [site.name for site in ours.sites] != [site.name for site in theirs.sites]:
        alone = sorted({site.name for site in ours.sites} ^ others.keys())
        raise ValueError(f"{ours.source} and {theirs.source} do not have the same sites: {alone[:6]} is in one alone.")
    shapes = {(tuple(site.key.shape), tuple(site.value.shape)) for site in ours.sites}
    for site in ours.sites:
        for side in SIDES:
            a, b = (tuple(getattr(of, side).shape) for of in (site, others[site.name]))
            if a != b:
                raise ValueError(
                    f"{site.name} has a {side} of {a} in {ours.source} and of {b} in {theirs.source} (G, P, D); only "
                    "prefixes of the same base model and length can be compared."
                )
    lengths = {key[1] for key, _ in shapes}
    if len(lengths) > 1:
        raise ValueError(
            f"{ours.source} has {sorted(lengths)} virtual tokens, by site; its tokens have no counterparts."
        )


def _of_site(ours: SitePrefix, theirs: SitePrefix) -> SiteComparison:
    numbers = []
    for side in SIDES:
        a, b = getattr(ours, side).flatten(), getattr(theirs, side).flatten()
        numbers += [float(F.cosine_similarity(a, b, dim=0)), float((a - b).norm() / a.norm().clamp_min(_tiny(a)))]
    return SiteComparison(ours.name, *numbers)


def _cosines(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of each virtual token with each (P, P), all heads together."""
    a, b = (F.normalize(side.transpose(0, 1).flatten(1), dim=1) for side in (ours, theirs))
    return a @ b.T


def _distances(ours: SitePrefix, theirs: SitePrefix) -> Tensor:
    """||a - b|| / ||a|| of each virtual token (P,), its key and value together."""
    a, b = (torch.cat([of.key, of.value], dim=-1).transpose(0, 1).flatten(1) for of in (ours, theirs))
    return (a - b).norm(dim=1) / a.norm(dim=1).clamp_min(_tiny(a))


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny
