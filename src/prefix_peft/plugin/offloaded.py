"""Load a prefix onto a base model of which parts lie on the CPU or on disk (``device_map``).

PEFT would take such a model apart and divide it anew, before the prefix can be begun; transformers would leave the
prefixes of layers on disk there, and their parameters empty. A prefix needs neither: it stays in memory, beside its
layer. So for the time of loading a prefix the map is put away, or says that all is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig

from ..config import PREFIX_KV

HUB = ("subfolder", "revision", "cache_dir", "token")  # what tells where a config lies


def load_model(original: Callable[..., Any], cls: Any, model: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
    """For ``PeftModel.from_pretrained``."""
    with _mapped(model, None, model_id, kwargs):
        return original(cls, model, model_id, *args, **kwargs)


def load_into_transformers(
    original: Callable[..., Any], model: Any, peft_model_id: str | None = None, *args: Any, **kwargs: Any
) -> Any:
    """For transformers' own ``load_adapter``."""
    here = {name: "cpu" if place == "disk" else place for name, place in getattr(model, "hf_device_map", {}).items()}
    with _mapped(model, here, peft_model_id, kwargs):
        return original(model, peft_model_id, *args, **kwargs)


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
