"""The share of the prefix, which a tensor of attention scores or weights carries beside it.

What happens to scores on their way to the softmax, and to weights on their way to the values, happens to the prefix's
columns too, unless it is about the keys of the sequence (masks, position biases).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .products import Product

Step = Callable[[Tensor], Tensor]

# By their names without underscores, of which in-place forms and operators have more.
SCALINGS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("mul", "multiply", "rmul", "imul"), torch.mul),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv", "itruediv", "idiv"), torch.div),
}
ELEMENT_BY_ELEMENT = {"to", "type", "type_as", "float", "half", "bfloat16", "double", "tanh", "dropout"}
TRANSPOSITIONS = {"transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis"}
OF_OTHER_CONTENT = {"expand_as", "view_as", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}

_born = itertools.count()


@dataclass(frozen=True)
class Scores:
    """Scores of the sequence; the prefix's are computed when they come to a softmax, for most products never do."""

    product: Product
    steps: tuple[tuple[Step, bool], ...] = ()  # what happened since, and whether it changed the shape only
    born: int = field(default_factory=lambda: next(_born))
    normalised: bool = False  # their log-sum-exp has been taken off: what is left to do is exp

    def then(self, step: Step, *, of_shape: bool = False) -> Scores:
        return replace(self, steps=(*self.steps, (step, of_shape)))

    def carried(self, own: Tensor, *, shape_only: bool = False) -> Tensor:
        """What has become of a tensor that began beside the product."""
        for step, of_shape in self.steps:
            own = step(own) if of_shape or not shape_only else own
        return own


@dataclass(frozen=True)
class Weights:
    """Weights of the sequence after a softmax; ``share`` (..., P) are the prefix's, None while only watching."""

    scores: Scores
    share: Tensor | None
    spent: list[bool] = field(default_factory=list)  # not empty once a product with values has had the share

    def then(self, step: Step, *, of_shape: bool = False) -> Weights:
        return self if self.share is None else replace(self, share=step(self.share))


@dataclass(frozen=True)
class Normaliser:
    """The log-sum-exp over scores, of families that write the softmax out."""

    scores: Scores


Share = Scores | Weights


def share_of(tensor: Any) -> Share | Normaliser | None:
    """What ``tensor`` carries."""
    return getattr(tensor, "prefix_kv_share", None)


def carry(tensor: Any, share: Share | Normaliser | None) -> None:
    """Let ``tensor`` carry ``share``, or nothing."""
    if isinstance(tensor, Tensor):
        tensor.prefix_kv_share = share  # pyright: ignore[reportAttributeAccessIssue]


def follow(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
    """Let the result of any other function carry on what its arguments carried."""
    name = function.__name__
    found = [(tensor, share_of(tensor)) for tensor in _tensors(args, kwargs)]
    carriers = [(tensor, share) for tensor, share in found if isinstance(share, (Scores, Weights))]
    if not carriers or not isinstance(result, Tensor) or name in OF_OTHER_CONTENT:
        return
    # The product of queries and keys comes first, those with positions and segments later.
    carrier, share = min(carriers, key=lambda pair: pair[1].born if isinstance(pair[1], Scores) else -1)
    if _is_turned(name, carrier, result):
        return
    if name.strip("_") in SCALINGS:
        factor = next((arg for arg in args if arg is not carrier), carrier)
        share = _scaled(share, SCALINGS[name.strip("_")], factor)
    elif name in ELEMENT_BY_ELEMENT or name in TRANSPOSITIONS:
        share = _likewise(share, function, args, kwargs) if args[0] is carrier else None
    else:
        share = _reshaped(share, carrier.shape[:-1], result.shape[:-1])
    carry(result, share)


def _is_turned(name: str, before: Tensor, after: Tensor) -> bool:
    """Whether what was the axis of the keys is no longer the last (``mT`` comes as ``__get__``)."""
    return name in (*TRANSPOSITIONS, "__get__") and before.stride(-1) != after.stride(-1)


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    flat = [part for arg in (*args, *kwargs.values()) for part in (arg if isinstance(arg, (tuple, list)) else [arg])]
    return [part for part in flat if isinstance(part, Tensor)]


def _scaled(share: Share, scale: Callable[..., Tensor], factor: Any) -> Share:
    if isinstance(factor, Tensor) and factor.dim() and factor.shape[-1] != 1:
        return share  # a mask over the keys
    return share.then(lambda own: scale(own, factor))


def _likewise(share: Share, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Share:
    return share.then(lambda own: function(own, *args[1:], **kwargs), of_shape=function.__name__ in TRANSPOSITIONS)


def _reshaped(share: Share, before: torch.Size, after: torch.Size) -> Share | None:
    if before == after:
        return share
    if before.numel() != after.numel():
        return None
    return share.then(lambda own: own.reshape(*after, own.shape[-1]), of_shape=True)
