"""Products of tensors, whatever function was called for them, read as one einsum: left, right -> out.

Attention written by hand is two products with a softmax between them. Families write them as ``matmul``, ``bmm``,
``baddbmm`` or ``einsum``, with batch and heads as two axes or as one, with or without blocks of queries. As an einsum
they all say what each axis is: batch, heads and blocks are what both operands and the result share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Product(NamedTuple):
    """``out = scale * einsum(left, right)``, one letter an axis."""

    left: Tensor
    right: Tensor
    left_axes: str
    right_axes: str
    out_axes: str
    scale: float = 1.0
    unnamed: int = 0  # how many axes of ``out`` an ellipsis stands for

    @property
    def summed(self) -> str:
        """The axes over which is summed: the head dim in a product of scores, the keys in one of values."""
        return "".join(a for a in self.left_axes if a in self.right_axes and a not in self.out_axes)

    @property
    def of_right(self) -> str:
        """The axes that the result has from the right alone: the keys in a product of scores, else the head dim."""
        return "".join(a for a in self.right_axes if a in self.out_axes and a not in self.left_axes)

    @property
    def shared(self) -> str:
        """Batch first, then heads and blocks."""
        return "".join(a for a in self.out_axes if a in self.left_axes and a in self.right_axes)


def read_product(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Product | None:
    """The product of two activations that this call computes; None where it computes something else."""
    reader = READERS.get(getattr(function, "__name__", ""))
    product = reader(*args, **kwargs) if reader else None
    if product is None or _is_weight(product.left) or _is_weight(product.right):
        return None
    return product if len(product.summed) == len(product.of_right) == 1 and product.shared else None


def _matrices(left: Tensor, right: Tensor, alpha: float = 1.0, out: Tensor | None = None) -> Product | None:
    if left.dim() < 3 or left.dim() != right.dim():
        return None
    lead = ascii_letters[: left.dim() - 2]
    return Product(left, right, lead + "xz", lead + "zy", lead + "xy", alpha)


def _added(bias: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Product | None:
    return _matrices(batch1, batch2, alpha)


def _equation(equation: str, *operands: Any) -> Product | None:
    if len(operands) == 1:
        operands = operands[0]
    inputs, _, out = equation.replace(" ", "").partition("->")
    axes = inputs.split(",")
    if len(axes) != 2 or len(operands) != 2 or not out:
        return None
    unnamed = operands[0].dim() - len(axes[0].replace("...", "")) if "..." in axes[0] else 0
    free = "".join(a for a in ascii_letters if a not in equation)[:unnamed]
    left, right, out = (part.replace("...", free) for part in (*axes, out))
    if out[-1] not in right:  # the keys, or the head dim, are those of the first operand
        return Product(operands[1], operands[0], right, left, out, unnamed=unnamed)
    return Product(operands[0], operands[1], left, right, out, unnamed=unnamed)


# By the name of the function or method: what reads its arguments as a product, or says that they are none.
READERS: dict[str, Callable[..., Product | None]] = {
    "matmul": _matrices,
    "__matmul__": _matrices,
    "bmm": _matrices,
    "baddbmm": _added,
    "einsum": _equation,
}


def _is_weight(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)


def heads_axis(product: Product, heads: int | None = None) -> str:
    """Which axis of ``product`` is the heads', '' where batch and heads are one; ``heads`` is their number, if known.

    An ellipsis stands for batch and blocks; otherwise the heads come after the batch.
    """
    candidates = product.shared[max(product.unnamed, 1) :]
    sizes = dict(zip(product.right_axes, product.right.shape, strict=True))
    return next((a for a in candidates if heads is None or sizes[a] == heads), "")


def batch_size(product: Product, heads: int) -> int:
    """B of the call in which this product occurs."""
    size = product.left.shape[product.left_axes.index(product.shared[0])]
    return size if heads_axis(product, heads) else size // heads


def canonical(product: Product, tensor: Tensor, axes: str, last: str, heads: int | None = None) -> Tensor:
    """An operand of ``product`` as (B, G, N, D), where ``last`` is D's axis and blocks become part of N; B is 1."""
    heads_at = heads_axis(product, heads)
    first = product.shared[0] + heads_at
    middle = "".join(a for a in axes if a not in first + last)
    tensor = torch.einsum(f"{axes}->{first + middle + last}", tensor)
    tensor = tensor if heads_at else tensor[None]
    return tensor.flatten(2, -2) if middle else tensor.unsqueeze(2)


def prefix_scores(product: Product, p_key: Tensor) -> Tensor:
    """The product of scores with p_key (B or 1, G, P, D) for the keys: as its result, but with P as the last axis."""
    prefix, axes = _laid_out(product, p_key, product.of_right + product.summed)
    return product.scale * torch.einsum(f"{product.left_axes},{axes}->{product.out_axes}", product.left, prefix)


def prefix_values(product: Product, weights: Tensor, p_value: Tensor) -> Tensor:
    """The product of values with weights (..., P) and p_value (B or 1, G, P, D): of the shape of its result."""
    prefix, axes = _laid_out(product, p_value, product.summed + product.of_right)
    return torch.einsum(f"{product.left_axes},{axes}->{product.out_axes}", weights.to(prefix.dtype), prefix)


def each_query(product: Product, numbers: Tensor) -> Tensor:
    """(B or 1, G, P) as it is added to `prefix_scores`: the same for every query and block."""
    numbers, axes = _laid_out(product, numbers, product.of_right)
    shape = dict(zip(axes, numbers.shape, strict=True))
    order = "".join(a for a in product.out_axes if a in axes)
    return torch.einsum(f"{axes}->{order}", numbers).reshape([shape.get(a, 1) for a in product.out_axes])


def _laid_out(product: Product, prefix: Tensor, rest: str) -> tuple[Tensor, str]:
    """(B or 1, G, ...) with batch and heads as this product has them, and the letters of its axes."""
    heads = heads_axis(product, prefix.shape[1])
    prefix = prefix.to(product.right.dtype)
    if not heads:
        prefix = prefix.expand(batch_size(product, prefix.shape[1]), *prefix.shape[1:]).flatten(0, 1)
    return prefix, product.shared[0] + heads + rest
