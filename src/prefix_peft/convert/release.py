"""prefix-peft's own release."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from ..config import PREFIX_KV
from .formats import Format, Source, register_format


@register_format("prefix-peft")
class Release(Format):
    """``adapter_model.safetensors`` with the keys and values of each site; its config knows the base model."""

    is_cache = False

    def recognises(self, source: Source) -> bool:
        """By the type that the config names."""
        return source.config.get("peft_type") == str(PREFIX_KV)

    def load(self, source: Source, model: PreTrainedModel, notes: list[str]) -> PeftModel:
        """As PEFT loads it, with all that is checked there."""
        if isinstance(model, PeftModel):
            raise ValueError("the model is a PeftModel already; give the base model (model.unload()).")
        return PeftModel.from_pretrained(model, str(source.file.parent)).eval()

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """As PEFT saves it."""
        model.save_pretrained(str(directory))
