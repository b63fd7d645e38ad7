"""What a prefix needs to train on a base model with quantised weights.

bitsandbytes packs 4-bit weights on CPUs with AVX-512 BF16 when a layer first computes without gradients. Packed weights
let no gradient through, so a model that has once been evaluated could not train a prefix any more. Where one is to be
trained, the layers are kept from packing.

TRL's trainers turn all that is trained on such a base into bfloat16. That suits LoRA's small numbers; those of a prefix
are as large as activations, and steps of less than 1/256 of them are lost.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .layer import prefix_layers

PACKS = "support_avx512bf16_for_cpu"  # bitsandbytes' flag of a layer (0.49 and later)


def keep_trainable(model: nn.Module) -> None:
    """From now on the 4-bit layers of ``model`` stay as they are. Harmless to repeat.

    Raises:
        ValueError: some are packed already.
    """
    layers = dict(_packing(model))
    for name, layer in layers.items():
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise ValueError(
                f"bitsandbytes has packed the 4-bit weights of {name} when the model was run, and lets no gradient "
                "through them any more. Load the model again and wrap it before it runs."
            )
    for layer in layers.values():
        setattr(layer, PACKS, False)
        layer.kept_from_packing = True


def release(model: nn.Module) -> None:
    """Undo `keep_trainable`."""
    for layer in model.modules():
        if vars(layer).pop("kept_from_packing", False):
            setattr(layer, PACKS, True)


def warn_of_rounding(model: nn.Module) -> None:
    """Say so where a prefix on a quantised ``model`` is about to train in less than float32."""
    if getattr(model, "is_quantized", False):
        trained = (p for layer in prefix_layers(model) for p in layer.parameters() if p.requires_grad)
        rounded = next((p.dtype for p in trained if p.dtype != torch.float32), None)
        if rounded is not None:
            warnings.warn(
                f"The prefix trains in {rounded}, where small steps are rounded away; TRL makes it so on a quantised "
                "base. Before trainer.train(), write: for p in trainer.model.parameters(): if p.requires_grad: "
                "p.data = p.data.float()",
                stacklevel=2,
            )


def _packing(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, layer) for name, layer in model.named_modules() if getattr(layer, PACKS, False))
