"""PEFT's model card, which does not know that the method is a plugin, and which edits what a person wrote."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from ..card.facts import Facts, cached_revision, public_name
from ..card.files import explain_loading, has_own_card, read_card, write_card
from ..card.signature import unsigned
from ..checkpoint import released_shapes
from ..config import PrefixConfig
from ..layer import prefix_layers
from ..model import PrefixModel


def write(original: Callable, model: Any, output_dir: str) -> None:
    """For ``PeftModel.create_or_update_model_card``: a trainer's card is PEFT's to edit, a person's is nobody's."""
    directory = Path(output_dir)
    if not isinstance(model.base_model, PrefixModel):
        return original(model, output_dir)
    if has_own_card(directory):
        return None
    text, facts = read_card(directory), facts_of(model)
    if text is None or unsigned(text) is not None:
        return write_card(directory, facts)
    explain_loading(directory, facts.base_model, facts.task_type)
    return original(model, output_dir)


def facts_of(model: Any) -> Facts:
    """What a model itself tells about its prefix, the one called default or else the first."""
    adapter = "default" if "default" in model.peft_config else next(iter(model.peft_config))
    config: PrefixConfig = model.peft_config[adapter]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    sites = [layer.site for layer in prefix_layers(model) if adapter in layer.config]
    name = config.base_model_name_or_path or getattr(base, "name_or_path", "") or ""
    return Facts(
        base_model=public_name(name), base_revision=cached_revision(name, config.revision),
        task_type=config.task_type, num_virtual_tokens=config.num_virtual_tokens,
        parameters=sum(map(prod, released_shapes(sites, config).values())), dtype=config.release_dtype,
        subfolder="" if adapter == "default" else adapter,
    )  # fmt: skip
