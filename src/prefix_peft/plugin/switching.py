"""Several prefixes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..model import PrefixModel


def set_adapter(
    original: Callable[..., Any], model: Any, adapter_name: str | list[str], inference_mode: bool = False
) -> None:
    """For ``PeftModel.set_adapter``: it takes a list for our tuner, as transformers' and the tuner's own do."""
    if isinstance(adapter_name, str) or not isinstance(model.base_model, PrefixModel):
        return original(model, adapter_name, inference_mode=inference_mode)
    unknown = [name for name in adapter_name if name not in model.peft_config]
    if unknown or not adapter_name:
        raise ValueError(f"set_adapter got {adapter_name}; the adapters of this model are {list(model.peft_config)}.")
    model.base_model.set_adapter(list(adapter_name), inference_mode=inference_mode)
    model.active_adapter = adapter_name[0]
