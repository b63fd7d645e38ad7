"""HazyResearch's cartridges (Eyuboglu et al. 2025): keys and values of each layer, frozen tokens before trained ones.

Their code saves lists of tensors (1, G, N, D); in a safetensors file the L of a list lie in one tensor (L, 1, G, N, D).
The cartridge takes the first positions, and the text the next ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from .attaching import as_cache, base_of
from .caches import parts_of
from .content import Content, common_shape, own_role, sites_of
from .formats import Format, Source, register_format

SIDES = ("keys", "values")


@register_format("cartridges")
class Cartridges(Format):
    """``trainable_keys``, ``trainable_values``, and ``frozen_`` or ``fixed_`` ones."""

    def recognises(self, source: Source) -> bool:
        """By the names of its tensors."""
        return {"trainable_keys", "trainable_values"} <= source.names

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """Frozen before trained."""
        held = source.tensors("trainable_", "frozen_", "fixed_")
        before = "frozen" if "frozen_keys" in held else "fixed"
        keys, values = (_joined(held.get(f"{before}_{side}"), held[f"trainable_{side}"], source) for side in SIDES)
        frozen = keys.shape[3] - held["trainable_keys"].shape[3]
        layers = list(zip(keys, values, strict=False))
        if len(keys) != len(values):
            raise ValueError(f"{source.file} has {len(keys)} layers of keys and {len(values)} of values.")
        return Content(parts_of(model, layers, str(source.file)), behind=True, num_frozen_tokens=frozen)

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """The tensors that their ``TrainableCache`` is made of."""
        base, content = base_of(model), as_cache(model, what := "a cartridge")
        common_shape(sites_of(base, own_role(base)), what)
        tensors = {}
        for index, side in enumerate(SIDES):
            whole = torch.stack([pair[index] for pair in content.parts.values()])[:, None]
            frozen, trained = whole.tensor_split([content.num_frozen_tokens], dim=3)
            tensors[f"trainable_{side}"] = trained.contiguous()
            if content.num_frozen_tokens:
                tensors[f"frozen_{side}"] = frozen.contiguous()
        save_file(tensors, directory / "cartridge.safetensors")


def _joined(frozen: Tensor | None, trained: Tensor, source: Source) -> Tensor:
    """(L, 1, G, P, D)."""
    parts = [trained] if frozen is None else [frozen, trained]
    shapes = [tuple(part.shape) for part in parts]
    if any(len(shape) != 5 for shape in shapes) or len({(*shape[:3], *shape[4:]) for shape in shapes}) != 1:
        raise ValueError(f"{source.file} has keys or values {shapes}, which must be (L, 1, G, N, D), one N each.")
    return torch.cat(parts, dim=3)
