"""A KV cache as a file, for servers and other code: ``layers.I.key`` and ``layers.I.value`` (1, G, P, D)."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel

from .attaching import as_cache
from .caches import CACHE, parts_of
from .content import Content
from .formats import Format, Source, register_format


@register_format("cache")
class KVCache(Format):
    """What `to_cache` makes, in the layers' order; the text begins at position P."""

    def recognises(self, source: Source) -> bool:
        """By the names of its tensors."""
        return {"layers.0.key", "layers.0.value"} <= source.names

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """The layers in their order."""
        held = source.tensors("layers.")
        count = len(held) // 2
        names = [(f"layers.{layer}.key", f"layers.{layer}.value") for layer in range(count)]
        missing = [name for pair in names for name in pair if name not in held]
        if missing:
            raise ValueError(f"{source.file} has {len(held)} tensors but no {missing[0]}.")
        layers = [(held[key], held[value]) for key, value in names]
        return Content(parts_of(model, layers, str(source.file)), behind=True)

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """In float32, whatever the model runs in."""
        content = as_cache(model, CACHE)
        pairs = enumerate(content.parts.values())
        tensors = {f"layers.{i}.{side}": t[None].contiguous() for i, pair in pairs
                   for side, t in zip(("key", "value"), pair, strict=True)}  # fmt: skip
        save_file(tensors, directory / "cache.safetensors", metadata={"text_begins_at": str(content.length)})
