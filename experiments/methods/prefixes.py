"""This library's prefixes: flat, through the MLP, and through a latent that keys and values share."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from prefix_peft import wrap
from prefix_peft.anatomy.watching import anatomy_of

from .rescaled import rescale
from .settings import Settings
from .shared import share


def add_prefix(base: PreTrainedModel, settings: Settings, **options: Any) -> PeftModel:
    """A flat prefix; ``options`` are further ones of `PrefixConfig`, and go before the settings."""
    return rescale(_attached(base, settings, **options), settings)


def add_prefix_mlp(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """A prefix made by an MLP (section 4.3 of the paper)."""
    return add_prefix(base, settings, prefix_projection=True, encoder_hidden_size=settings.encoder_hidden_size)


def add_prefix_scaled(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """A flat prefix whose virtual tokens train in units of their own size."""
    return add_prefix(base, settings, scale_parameter=True)


def add_prefix_shared(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """A prefix that starts as a flat one, and moves by what is made of a latent."""
    return rescale(share(_attached(base, settings), settings), settings)


def places(base: PreTrainedModel, settings: Settings) -> dict[str, Any]:
    """The options of `PrefixConfig` that say where a prefix stands."""
    return {
        "sites": None if settings.sites is None else list(settings.sites),
        "target_modules": None if settings.layers is None else _half(base, settings.layers),
    }


def _attached(base: PreTrainedModel, settings: Settings, **options: Any) -> PeftModel:
    given = places(base, settings) | {
        "gate": settings.gate, "num_frozen_tokens": settings.num_frozen_tokens,
        "prefix_dropout": settings.prefix_dropout, "init_text": settings.init_text,
        "tokenizer_name_or_path": settings.tokenizer_name_or_path,
    }  # fmt: skip
    model = wrap(base, settings.num_virtual_tokens, **given | options)
    if settings.random_numbers:
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter)
    return model


def _half(base: PreTrainedModel, half: str) -> list[str]:
    """The names of the attention modules in the 'lower' or the 'upper' half of the layers of each role.

    Raises:
        ValueError: there is no such half of a single layer.
    """
    by_role: dict[str, list[str]] = defaultdict(list)
    for site in anatomy_of(base).sites.values():
        by_role[site.role].append(site.name)
    found = [
        name
        for names in by_role.values()
        for name in (names[: len(names) // 2] if half == "lower" else names[len(names) // 2 :])
    ]
    if not found:
        raise ValueError(f"{type(base).__name__} has no {half} half of its layers; leave layers out.")
    return found
