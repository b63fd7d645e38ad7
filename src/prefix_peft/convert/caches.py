"""A prefix as the KV cache that other code starts from, and a cache as a prefix."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from ..one_pass import KeysValues
from .agreeing import cache_of
from .attaching import as_cache, attach, base_of
from .content import Content, own_role, sites_of

CACHE = "a cache"


def to_cache(model: PeftModel, batch_size: int = 1) -> DynamicCache | EncoderDecoderCache:
    """The active prefix of ``model`` as a cache: ``base(text, past_key_values=cache)`` is ``model(text)``.

    The base counts the text's positions from P on, as it does behind any cache, and ``attention_mask`` must cover the
    P places. Each call takes a new cache, for the model writes into it. An encoder-decoder gets its own kind of cache.

    Raises:
        ValueError: the prefix has sites or gates that a cache does not have, or it could not be the same.
    """
    return cache_of(base_of(model), as_cache(model, CACHE).parts, batch_size)


def from_cache(model: PreTrainedModel, cache: Any, num_frozen_tokens: int = 0) -> PeftModel:
    """``model`` with a trainable prefix that is ``cache``, one row of keys and values layer by layer.

    Raises:
        ValueError: several rows, layers or shapes that are not the model's, or it could not be the same.
    """
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    layers = [(layer.keys, layer.values) for layer in cache.layers] if hasattr(cache, "layers") else list(cache)
    return attach(model, Content(parts_of(model, layers, CACHE), behind=True, num_frozen_tokens=num_frozen_tokens))


def parts_of(model: PreTrainedModel, layers: list[tuple[Any, ...]], where: str) -> KeysValues:
    """Pairs (1, G, P, D_k) and (1, G, P, D_v), one a layer, by site name.

    Raises:
        ValueError: with the number found and the number needed.
    """
    sites = sites_of(model, own_role(model))
    if len(layers) != len(sites):
        raise ValueError(
            f"{where} has {len(layers)} layers, {type(model).__name__} has {len(sites)} that attend to a text of their "
            "own. It was made for another base model."
        )
    length = layers[0][0].shape[-2] if layers[0][0] is not None else 0
    for number, (site, (keys, values)) in enumerate(zip(sites, layers, strict=True)):
        needed = [(1, site.num_key_value_heads, length, width) for width in (site.key_dim, site.value_dim)]
        found = [None if side is None else tuple(side.shape) for side in (keys, values)]
        if found != needed or not length:
            raise ValueError(
                f"layer {number} of {where} has keys and values {found}, the model needs {needed}: one row, "
                f"{site.num_key_value_heads} key/value heads, as many tokens as layer 0."
            )
    return {
        site.name: (keys[0].detach().float().cpu(), values[0].detach().float().cpu())
        for site, (keys, values) in zip(sites, layers, strict=True)
    }
