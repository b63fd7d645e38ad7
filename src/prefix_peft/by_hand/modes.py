"""While a module attends by hand: watch what it does, or let the prefix take part.

Both see every function that the module calls (a `TorchFunctionMode`), and wait for a product of scores, the softmax
over it, and the product of its weights with values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..anatomy.sites import Site
from ..argument_order import in_order
from ..attention.attend import attend_with_prefix
from ..attention.terms import AttentionCall, Prefix, PrefixRows
from ..attention.weights import prefix_weights
from .observed import by_query
from .products import Product, batch_size, canonical, each_query, prefix_scores, prefix_values, read_product
from .shares import Normaliser, Scores, Weights, carry, follow, share_of

Give = Callable[[int], Prefix | PrefixRows | None]  # the prefix for a batch of so many rows


class AttentionByHand(TorchFunctionMode):
    """What both have in common: telling the steps of attention apart."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = in_order(func, args, kwargs or {})
        if func is F.scaled_dot_product_attention:
            return self.attend(*args, **kwargs)
        step = self._normalising(func, args, kwargs)
        if step is not None:
            return step(func, share_of(args[0]), args, kwargs)
        product = read_product(func, args, kwargs)
        weights = None if product is None else share_of(product.left)
        if product is not None and isinstance(weights, Weights) and not weights.spent:
            weights.spent.append(True)
            return self.values(func, product, weights, args, kwargs)
        result = func(*args, **kwargs)
        if product is not None:
            carry(result, Scores(product))
        else:
            follow(func, args, kwargs, result)
        return result

    def _normalising(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Callable[..., Any] | None:
        """The method for this step from scores to weights, if it is one: a softmax, or one written out."""
        share = share_of(args[0]) if args else None
        if not isinstance(share, Scores):
            return None
        name = func.__name__
        if name in ("softmax", "logsumexp") and _over_last(args, kwargs):
            return getattr(self, name)
        if name in ("sub", "__sub__") and isinstance(share_of(args[1]), Normaliser):
            return self.normalised
        return self.exp if name == "exp" and share.normalised else None

    def normalised(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        """Scores less their log-sum-exp."""
        result = func(*args, **kwargs)
        carry(result, replace(scores.then(lambda own: own - args[1]), normalised=True))
        return result

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A whole attention in one call."""
        raise NotImplementedError

    def softmax(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        """Scores become weights."""
        raise NotImplementedError

    def logsumexp(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        """The first half of a softmax that is written out ..."""
        raise NotImplementedError

    def exp(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        """... and the second."""
        raise NotImplementedError

    def values(self, func: Callable[..., Any], product: Product, weights: Weights, args: Any, kwargs: Any) -> Tensor:
        """Weights meet values."""
        raise NotImplementedError


def _over_last(args: Any, kwargs: Any) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return dim in (-1, args[0].dim() - 1)


class Watch(AttentionByHand):
    """Tells ``see`` of every attention: query (1, H, T, D_k), key (1, G, S, D_k) and value (1, G, S, D_v).

    The fourth thing it tells is whether each key has a bias of its own (`is_of_the_keys`).
    """

    def __init__(self, see: Callable[[Tensor, Tensor, Tensor, bool], Any]) -> None:
        super().__init__()
        self.see = see
        self.biased: bool = False

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        self.see(query, key, value, is_of_the_keys(attn_mask))
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)

    def softmax(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        self.biased = is_of_the_keys(bias_of(scores, args[0]))
        result = func(*args, **kwargs)
        carry(result, Weights(scores, None))
        return result

    exp = softmax

    def logsumexp(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        result = func(*args, **kwargs)
        carry(result, Normaliser(scores))
        return result

    def values(self, func: Callable[..., Any], product: Product, weights: Weights, args: Any, kwargs: Any) -> Tensor:
        asked = weights.scores.product
        self.see(
            canonical(asked, asked.left, asked.left_axes, asked.summed),
            canonical(asked, asked.right, asked.right_axes, asked.summed),
            canonical(product, product.right, product.right_axes, product.of_right),
            self.biased,
        )
        return func(*args, **kwargs)


def bias_of(scores: Scores, final: Tensor) -> Tensor | None:
    """What was added to the scores on their way to the softmax: masks and position biases.

    None where the scores have been cut into bands, or put beside those of other products.
    """
    product = scores.product
    plain = torch.einsum(f"{product.left_axes},{product.right_axes}->{product.out_axes}", product.left, product.right)
    return final - scores.carried(product.scale * plain) if plain.shape[-1] == final.shape[-1] else None


def is_of_the_keys(bias: Tensor | None) -> bool:
    """Whether a bias (..., T, S) is a number for each key, the same for all queries that see it (ALiBi).

    The softmax takes off what is common to all keys, so such families may count from wherever they like. A prefix
    beside the keys makes the difference plain; it is taken to be where the query is.
    """
    if bias is None or bias.dtype == torch.bool or min(bias.shape[-2:]) < 2:
        return False
    first, last = bias[..., 0, 0], bias[..., -1, 0]
    return bool(((first - last).abs() < 1e-4).all() and ((last - bias[..., -1, 1]).abs() > 1e-3).any())


class Serve(AttentionByHand):
    """Lets a prefix take part in every attention of one call of one module."""

    def __init__(
        self, module: nn.Module, site: Site, give: Give, observer: Callable[[nn.Module, Tensor], None] | None = None
    ) -> None:
        super().__init__()
        self.module: nn.Module = module
        self.site: Site = site
        self.give: Give = give
        self.observer: Callable[[nn.Module, Tensor], None] | None = observer
        self.prefix: Prefix | None = None
        self.uses: list[list[bool]] = []  # one for each attention, filled when its weights have met the values

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        super().__exit__(kind, *error)
        if kind is None and not (self.uses and all(self.uses)):
            raise NotImplementedError(
                f"{type(self.module).__name__} attended in a way in which its prefix cannot be followed. Other "
                "lengths, masks or options than those of a plain text may lead there; please report what was passed."
            )

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        def attend(module, query, key, value, mask, is_causal=False, **_):
            own = F.scaled_dot_product_attention(
                query, key, value, mask, dropout_p, is_causal and mask is None, **options
            )
            return own.transpose(1, 2), None

        if self.site.key_bias and attn_mask is not None:
            attn_mask = attn_mask - attn_mask.amax(-1, keepdim=True)
        known = {"is_causal": is_causal, "dropout": dropout_p, "scaling": options.get("scale")}
        call = AttentionCall(attend, "sdpa", self.module, query, key, value, attn_mask, known)
        prefix = self.give(query.shape[0])
        self.uses.append([True])
        out, _ = call.run() if prefix is None else attend_with_prefix(call, prefix)
        if prefix is not None and self.observer is not None:
            self.observer(self.module, prefix_weights(call, prefix))
        return out.transpose(1, 2)

    def softmax(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        prefix = self._prefix_beside(scores)
        if prefix is None:
            self.uses.append([True])
            return func(*args, **kwargs)
        own = self._scores(prefix, scores, args[0])
        together = func(torch.cat([own, args[0]], dim=-1), *args[1:], **kwargs)
        share, weights = together.split([own.shape[-1], args[0].shape[-1]], dim=-1)
        if prefix.gate is not None:
            weights, share = _gated(func(*args, **kwargs), share, self._everywhere(scores, prefix, prefix.gate))
        self._hand_on(weights, scores, share)
        return weights

    def logsumexp(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        result, prefix = func(*args, **kwargs), self._prefix_beside(scores)
        if prefix is not None:
            result = torch.logaddexp(result, func(self._scores(prefix, scores, args[0]), *args[1:], **kwargs))
        carry(result, Normaliser(scores))
        return result

    def exp(self, func: Callable[..., Any], scores: Scores, args: Any, kwargs: Any) -> Tensor:
        result, prefix = func(*args, **kwargs), self._prefix_beside(scores)
        if prefix is None:
            self.uses.append([True])
        else:
            if prefix.gate is not None:
                name = type(self.module).__name__
                raise NotImplementedError(f"{name} writes its softmax out, where no gate fits in: leave gate=False.")
            self._hand_on(result, scores, self._scores(prefix, scores, args[0]).exp())
        return result

    def values(self, func: Callable[..., Any], product: Product, weights: Weights, args: Any, kwargs: Any) -> Tensor:
        assert self.prefix is not None and weights.share is not None
        result = func(*args, **kwargs)
        return result + prefix_values(product, weights.share, self.prefix.value).to(result.dtype)

    def _hand_on(self, weights: Tensor, scores: Scores, share: Tensor) -> None:
        if self.observer is not None:
            self.observer(self.module, by_query(self.module, scores, share, self.site.num_key_value_heads))
        carried = Weights(scores, share)
        self.uses.append(carried.spent)
        carry(weights, carried)

    def _prefix_beside(self, scores: Scores) -> Prefix | None:
        if self.prefix is None:
            given = self.give(batch_size(scores.product, self.site.num_key_value_heads))
            self.prefix = given.dense() if isinstance(given, PrefixRows) else given
        return self.prefix

    def _scores(self, prefix: Prefix, scores: Scores, final: Tensor) -> Tensor:
        """The prefix's scores (..., P) beside those that have come to the softmax."""
        own = scores.carried(prefix_scores(scores.product, prefix.key))
        bias = bias_of(scores, final) if self.site.key_bias else None
        if bias is not None:
            own = own + bias.amax(-1, keepdim=True)
        if prefix.visible is not None:
            visible = prefix.visible.expand(-1, self.site.num_key_value_heads, -1)
            own = own.masked_fill(self._everywhere(scores, prefix, visible) == 0, torch.finfo(own.dtype).min)
        return own.to(final.dtype)

    def _everywhere(self, scores: Scores, prefix: Prefix, numbers: Tensor) -> Tensor:
        """(B or 1, G, P) for every score of the prefix (..., P), as they come to the softmax."""
        beside = prefix_scores(scores.product, prefix.key)
        return scores.carried(each_query(scores.product, numbers).expand_as(beside), shape_only=True)


def _gated(base: Tensor, share: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """`joined.gated` for weights: ``base`` over the sequence alone, ``share`` over [P; sequence]."""
    mass = (gate.abs() * share).sum(-1, keepdim=True)
    rest = (1 - share.sum(-1, keepdim=True) + mass).clamp_min(torch.finfo(share.dtype).eps)
    return base * (1 - mass / rest), gate * share / rest
