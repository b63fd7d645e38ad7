"""What a base model with quantised weights needs, so that gradients come through it.

bitsandbytes packs 4-bit weights on CPUs with AVX-512 BF16 when a layer first computes without gradients. Packed weights
let no gradient through, so a model that has once been evaluated could not train a prefix any more. Where one is to be
trained, the layers are kept from packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

PACKS = "support_avx512bf16_for_cpu"  # bitsandbytes' flag of a layer (0.49 and later)


def keep_trainable(model: nn.Module) -> None:
    """From now on the 4-bit layers of ``model`` stay as they are. Harmless to repeat.

    Raises:
        ValueError: some are packed already.
    """
    for name, layer in _packing(model):
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise ValueError(
                f"bitsandbytes has packed the 4-bit weights of {name} when the model was run, and lets no gradient "
                "through them any more. Load the model again and wrap it before it runs."
            )
        setattr(layer, PACKS, False)
        layer.kept_from_packing = True


def release(model: nn.Module) -> None:
    """Undo `keep_trainable`."""
    for layer in model.modules():
        if vars(layer).pop("kept_from_packing", False):
            setattr(layer, PACKS, True)


def _packing(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, layer) for name, layer in model.named_modules() if getattr(layer, PACKS, False))
