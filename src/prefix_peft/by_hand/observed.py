"""The prefix's weights of a module that attends by hand, query by query, however the module has laid them out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .products import Product, batch_size, heads_axis
from .shares import Scores


def by_query(module: nn.Module, scores: Scores, share: Tensor, heads: int) -> Tensor:
    """``share`` (..., P) as (B, H, T, P), whatever reshaping lies between the product of scores and the softmax.

    Numbers of rows and queries are sent the way that the scores went, which shows where each has come to.

    Args:
        heads: G of the site.

    Raises:
        NotImplementedError: the queries lie in blocks, so that no axis is theirs.
    """
    product = scores.product
    asked = next(a for a in reversed(product.left_axes) if a in product.out_axes and a not in product.right_axes)
    queries, rows = (_carried_numbers(scores, axis) for axis in (asked, product.shared[0]))
    where = next((dim for dim in reversed(range(queries.dim())) if _counts_along(queries, dim)), None)
    if where is not None and not _blocks(product, heads, asked):
        batch = batch_size(product, heads)
        rows = rows.movedim(where, -1).reshape(batch, -1) * batch // _size(product, product.shared[0])
        if (torch.arange(batch) == rows.T).all():
            share = share.detach().abs().float().movedim(where, -2)
            return share.reshape(batch, -1, *share.shape[-2:])
    raise NotImplementedError(
        f"{type(module).__name__} attends in blocks or streams of queries, of which its prefix's share cannot be "
        "told. Observe another model, or only its other sites: PrefixConfig(target_modules=...)."
    )


def _blocks(product: Product, heads: int, asked: str) -> list[str]:
    """The axes that part the queries, and are neither rows nor heads; heads of a group come to keys that they share."""
    others = [a for a in product.shared[1:] if a != heads_axis(product, heads) and _size(product, a) > 1]
    sizes = dict(zip(product.right_axes, product.right.shape, strict=True))
    return [a for a in others if sizes[a] > 1 or _size(product, asked) == 1]


def _size(product: Product, axis: str) -> int:
    sides = ((product.left_axes, product.left), (product.right_axes, product.right))
    return max(tensor.shape[axes.index(axis)] for axes, tensor in sides if axis in axes)


def _carried_numbers(scores: Scores, axis: str) -> Tensor:
    """0, 1, 2, ... along one axis of the product's result, where they have come to."""
    product = scores.product
    shape = [_size(product, a) for a in product.out_axes[:-1]]
    place = product.out_axes.index(axis)
    counted = torch.arange(shape[place]).view([-1 if i == place else 1 for i in range(len(shape))])
    return scores.carried(counted.expand(shape).unsqueeze(-1), shape_only=True)[..., 0]


def _counts_along(numbers: Tensor, dim: int) -> bool:
    """Whether they are 0, 1, 2, ... along ``dim``, the same everywhere, and nothing is missing."""
    count = numbers.shape[dim]
    return int(numbers.max()) + 1 == count and bool((numbers.movedim(dim, -1) == torch.arange(count)).all())
