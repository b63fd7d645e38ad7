"""Training weights of the base itself: none, the top two layers', or all."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .settings import Settings

TOP = 2


def train_nothing(base: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """The base as it is."""
    return base


def train_everything(base: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """All weights of the base."""
    return base.requires_grad_(True)


def train_top_layers(base: PreTrainedModel, settings: Settings) -> PreTrainedModel:
    """The last two layers of the decoder; embeddings, head and final layer norm stay."""
    for layer in layers_of(base.get_decoder())[-TOP:]:
        layer.requires_grad_(True)
    return base


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The transformer layers, those of an encoder before those of its decoder.

    Raises:
        ValueError: the model keeps none in a ``ModuleList``.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} keeps no transformer layers in a ModuleList; choose a method that needs none, "
            "such as 'prefix' or 'lora'."
        )
    return layers
