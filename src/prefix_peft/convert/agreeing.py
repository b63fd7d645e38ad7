"""The proof of a conversion: the model with a prefix does what the bare model does behind the same as a cache."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from ..anatomy.trial import body, equal_tokens, is_encoder_decoder, undisturbed
from ..anatomy.watching import anatomy_of
from ..one_pass import KeysValues


def check_agrees(model: PeftModel, parts: KeysValues) -> None:
    """Refuse a prefix on ``model`` that is not what ``parts`` are as a cache.

    Raises:
        ValueError: the outputs for a few tokens differ, or the model takes no such cache.
    """
    base = cast("PreTrainedModel", model.get_base_model())
    inputs = equal_tokens(base, anatomy_of(base).source_shape)
    with undisturbed(base):
        ours = _output(body(base)(**inputs))
        try:
            with model.disable_adapter():
                cached = {"past_key_values": cache_of(base, parts), "use_cache": True}
                theirs = _output(body(base)(**inputs | cached))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError) as error:
            raise ValueError(f"{type(base).__name__} does not go on from a cache of these keys: {error}") from error
    difference = float((ours - theirs).norm() / theirs.norm())
    if not difference <= torch.finfo(base.dtype).eps ** 0.5:
        raise ValueError(
            f"as a prefix of {type(base).__name__} these keys and values do not do what they do as a cache before the "
            f"text: its outputs differ by {difference:.1%}. The model counts a cache among the places of a text in a "
            "way that no prefix can (relative biases, or a window shorter than the prefix)."
        )


def cache_of(model: PreTrainedModel, parts: KeysValues, batch_size: int = 1) -> Any:
    """``parts``, layer by layer, as the model's own cache, the same for each row."""
    two = is_encoder_decoder(model)
    cache = DynamicCache() if two else DynamicCache(config=model.config.get_text_config(decoder=True))
    for layer, pair in enumerate(parts.values()):
        keys, values = (side.to(model.device, model.dtype).expand(batch_size, -1, -1, -1) for side in pair)
        cache.update(keys, values, layer)
    return EncoderDecoderCache(cache, DynamicCache()) if two else cache


def _output(output: Any) -> Tensor:
    return next(part for part in output.values() if isinstance(part, Tensor) and part.is_floating_point()).float()
