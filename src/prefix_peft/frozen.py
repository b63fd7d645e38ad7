"""Frozen means frozen: while a prefix trains, the base model computes as it does in evaluation.

The paper's code keeps the language model in eval mode; PEFT leaves its dropout on. Calling ``train()`` on a wrapped
model means the prefix, so just before each forward pass the base's modules are put back into eval mode. Layers that
checkpoint their activations do so only in training mode: they keep it outside, and lose it inside the function they
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from inspect import signature
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .hook import add_forward_pre_hook, calling, current_call, remove_forward_pre_hook
from .layer import prefix_layers
from .quantised import warn_of_rounding


def keep_frozen(model: nn.Module) -> None:
    """From now on ``model`` is quiet when a prefix trains, unless an active one asks for ``base_dropout``."""
    if _before_forward in model._forward_pre_hooks.values():
        return
    add_forward_pre_hook(model, _before_forward)
    if any(map(_is_reversible, model.modules())):
        cast("PreTrainedModel", model).enable_input_require_grads()


def release(model: nn.Module) -> None:
    """Undo `keep_frozen`."""
    remove_forward_pre_hook(model, _before_forward)
    if any(map(_is_reversible, model.modules())):
        cast("PreTrainedModel", model).disable_input_require_grads()
    for module in cast("Iterator[Any]", model.modules()):
        function = getattr(module, "_gradient_checkpointing_func", None)
        if isinstance(function, _Checkpoint):
            module._gradient_checkpointing_func = function.original


def _before_forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    if not model.training:
        return None
    warn_of_rounding(model)
    dropout = [config.base_dropout for config in _active_configs(model)]
    quiet = bool(dropout) and not any(dropout)  # without an active prefix something else trains, in its own way
    call = current_call()
    for module in _base_modules(model):
        if _is_reversible(module) and call is not None and call.rows and torch.is_grad_enabled():
            raise NotImplementedError(
                f"{type(module).__name__} runs again in its backward pass, which would not know of adapter_names; "
                "train one adapter at a time (set_adapter)."
            )
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            function: Any = module._gradient_checkpointing_func
            original = function.original if isinstance(function, _Checkpoint) else function
            vars(module)["_gradient_checkpointing_func"] = _Checkpoint(original, module, quiet)
            if "use_cache" in signature(model.forward).parameters:
                kwargs["use_cache"] = False  # models see to it themselves, but only in training mode
        elif quiet and not _is_reversible(module):
            module.training = False
    return args, kwargs


def _is_reversible(module: nn.Module) -> bool:
    """A layer that runs once more in its own backward pass, which it does in training mode only, and from its input."""
    return hasattr(module, "backward_pass")


def _active_configs(model: nn.Module) -> Iterator[Any]:
    for layer in prefix_layers(model):
        yield from (layer.config[name] for name in layer.active_adapters if name in layer.config)


def _base_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Every module below, but for those that train: adapters of any kind and ``modules_to_save``."""
    for child in module.children():
        if isinstance(child, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            continue
        yield child
        yield from _base_modules(child)


class _Checkpoint:
    """The checkpointing function of a layer, whose second run, in the backward pass, must be like the first.

    The backward pass runs outside the call of the model, perhaps in another thread, so what belongs to the call (which
    row has which prefix) is taken along.
    """

    def __init__(self, original: Callable[..., Any], layer: nn.Module, quiet: bool) -> None:
        self.original, self.layer, self.quiet = original, layer, quiet

    def __call__(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = current_call()

        def rerun(*inputs: Any) -> Any:
            training = self.layer.training
            self.layer.training = training and not self.quiet
            try:
                with nullcontext() if call is None else calling(call):
                    return run(*inputs)
            finally:
                self.layer.training = training

        return self.original(rerun, *args, **kwargs)
