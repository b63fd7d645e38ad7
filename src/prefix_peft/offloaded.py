"""Load a prefix onto a base model of which parts lie on the CPU or on disk (``device_map``).

PEFT would take such a model apart and divide it anew, before the prefix can be begun; transformers would leave the
prefixes of layers on disk there, and their parameters empty. A prefix needs neither: it stays in memory, beside its
layer. So for the time of loading a prefix the map is put away, or says that all is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import peft.peft_model
from peft import PeftConfig
from transformers.integrations.peft import PeftAdapterMixin

from .config import PREFIX_KV

HUB = ("subfolder", "revision", "cache_dir", "token")  # what tells where a config lies


def install() -> None:
    """Stand before PEFT's and transformers' way to load an adapter. Harmless to repeat."""
    original = peft.peft_model.PeftModel.from_pretrained.__func__
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def from_pretrained(cls: Any, model: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
        with _mapped(model, None, model_id, kwargs):
            return original(cls, model, model_id, *args, **kwargs)

    from_pretrained.prefix_peft = True  # pyright: ignore[reportAttributeAccessIssue]
    peft.peft_model.PeftModel.from_pretrained = classmethod(from_pretrained)  # pyright: ignore[reportAttributeAccessIssue]
    load = PeftAdapterMixin.load_adapter

    @wraps(load)
    def load_adapter(self: Any, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        here = {name: "cpu" if place == "disk" else place for name, place in getattr(self, "hf_device_map", {}).items()}
        with _mapped(self, here, peft_model_id, kwargs):
            return load(self, peft_model_id, *args, **kwargs)

    PeftAdapterMixin.load_adapter = load_adapter


@contextmanager
def _mapped(
    model: Any, device_map: dict[str, Any] | None, source: str | None, options: dict[str, Any]
) -> Iterator[None]:
    """Inside, a model with parts in other places has this map, or none, where a prefix is to be loaded."""
    held = vars(model).get("hf_device_map")
    if held is None or not {"cpu", "disk"} & set(held.values()) or not _is_prefix(source, options):
        yield
        return
    if device_map is None:
        del model.hf_device_map
    else:
        model.hf_device_map = device_map
    try:
        yield
    finally:
        model.hf_device_map = held


def _is_prefix(source: str | None, options: dict[str, Any]) -> bool:
    config = options.get("config") or options.get("peft_config")
    if config is None and source is not None:
        config = PeftConfig.from_pretrained(source, **{k: v for k, v in options.items() if k in HUB})
    return getattr(config, "peft_type", None) == PREFIX_KV
