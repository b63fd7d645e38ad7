"""P-tuning v2 (Liu et al. 2022): ``prefix_encoder`` of a whole saved model, flat or an MLP, given to it as a cache."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel

from .attaching import as_cache, base_of
from .content import Content, from_rows, own_role, sites_of, to_rows
from .folding import fold
from .formats import Format, Source, register_format

EMBEDDING = "prefix_encoder.embedding"


@register_format("p-tuning-v2")
class PTuningV2(Format):
    """``prefix_encoder.embedding.weight`` (P, 2 L H), or (P, H) and ``prefix_encoder.trans``."""

    def recognises(self, source: Source) -> bool:
        """By the name of its module."""
        return f"{EMBEDDING}.weight" in source.names

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """The rows; what else the model has trained, such as a classifier, is left out."""
        rows = fold(source, EMBEDDING, "prefix_encoder.trans")
        heads = sorted(name for name in source.names if name.startswith(("classifier.", "qa_outputs.")))
        if heads:
            notes.append(f"{', '.join(heads)}, which P-tuning v2 trains as well, must be put into the base model.")
        return Content(from_rows(rows, sites_of(model, own_role(model)), f"prefix_encoder in {source.file}"), True)

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """The flat form (prefix_projection=False), for ``load_state_dict(..., strict=False)``."""
        base, content = base_of(model), as_cache(model, what := "P-tuning v2")
        rows = to_rows(content.parts, sites_of(base, own_role(base)), what)
        save_file({f"{EMBEDDING}.weight": rows}, directory / "prefix_encoder.safetensors")
