"""The prefix's weights of a module that attends by hand, query by query, however the module has laid them out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .products import Product, batch_size
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
    queries, rows = (
        scores.carried(_numbers(product, axis), shape_only=True)[..., 0] for axis in (asked, product.out_axes[0])
    )
    where = next((dim for dim in reversed(range(queries.dim())) if _counts_along(queries, dim)), None)
    batch = batch_size(product, heads)
    if where is not None and rows.shape == share.shape[:-1]:
        count = queries.shape[where]
        rows = rows.movedim(where, -1).reshape(batch, -1)
        if (torch.arange(batch) == (rows * batch).div(int(rows.max()) + 1, rounding_mode="floor").T).all():
            return share.detach().abs().float().movedim(where, -2).reshape(batch, -1, count, share.shape[-1])
    raise NotImplementedError(
        f"{type(module).__name__} attends in blocks of queries, of which its prefix's share of the attention cannot be "
        "told. Observe another model, or only its other sites: PrefixConfig(target_modules=...)."
    )


def _numbers(product: Product, axis: str) -> Tensor:
    """0, 1, 2, ... along one axis of the product's result, (..., 1)."""
    sizes = dict(zip(product.left_axes + product.right_axes, (*product.left.shape, *product.right.shape), strict=True))
    shape = [sizes[a] for a in product.out_axes[:-1]]
    place = product.out_axes.index(axis)
    counted = torch.arange(shape[place]).view([-1 if i == place else 1 for i in range(len(shape))])
    return counted.expand(shape).unsqueeze(-1)


def _counts_along(numbers: Tensor, dim: int) -> bool:
    """Whether they are 0, 1, 2, ... along ``dim``, the same everywhere."""
    return (
        bool((numbers.movedim(dim, -1) == torch.arange(numbers.shape[dim])).all())
        and numbers.max() + 1 == numbers.shape[dim]
    )
