"""This library's prefixes: flat, and through the MLP."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from prefix_peft import wrap

from .settings import Settings


def add_prefix(base: PreTrainedModel, settings: Settings, **options: Any) -> PeftModel:
    """A flat prefix; ``options`` are further ones of `PrefixConfig`, and go before the settings."""
    given = {
        "sites": None if settings.sites is None else list(settings.sites), "gate": settings.gate,
        "num_frozen_tokens": settings.num_frozen_tokens, "init_text": settings.init_text,
        "tokenizer_name_or_path": settings.tokenizer_name_or_path,
    }  # fmt: skip
    model = wrap(base, settings.num_virtual_tokens, **given | options)
    if settings.random_numbers:
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter)
    return model


def add_prefix_mlp(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """A prefix made by an MLP (section 4.3 of the paper)."""
    return add_prefix(base, settings, prefix_projection=True, encoder_hidden_size=settings.encoder_hidden_size)
