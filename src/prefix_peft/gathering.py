"""A prefix that several processes hold in parts, put together: FSDP2's DTensors and DeepSpeed's ZeRO.

What is done here is done by all processes at the same time: each sends its part and gets the whole.
"""

# pyright: reportMissingImports=false
# (DeepSpeed is imported where it is in use)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.fsdp import is_fsdp_enabled


def is_dtensor(tensor: Tensor) -> bool:
    """Whether FSDP2 left this process its part; while the module computes, it has the whole."""
    return hasattr(tensor, "full_tensor")  # asked so, for torch.distributed.tensor is slow to import


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has only its part: a DTensor, or a parameter under ZeRO-3."""
    return is_dtensor(tensor) or hasattr(tensor, "ds_id")


def is_held_in_parts(model: nn.Module) -> bool:
    """Whether each process has only its part of the prefixes of ``model``."""
    return any(is_sharded(p) for name, p in model.named_parameters() if ".prefix_kv_encoder." in name)


def full_shape(tensor: Tensor) -> torch.Size:
    """Of all of it, without asking the other processes."""
    return getattr(tensor, "ds_shape", tensor.shape)


def blueprint(parameter: Tensor) -> Tensor:
    """A tensor of the shape and dtype of what `full_parameter` gives, without its numbers."""
    held_in_16_bits = hasattr(parameter, "_z3_optimizer") or hasattr(parameter, "_hp_mapping")
    dtype = torch.float32 if held_in_16_bits else parameter.dtype
    return torch.empty(full_shape(parameter), dtype=dtype, device="meta")


def full_parameter(parameter: Tensor) -> Tensor:
    """All of a parameter as the optimizer holds it, which is in float32 also where the model has it in 16 bits."""
    held: Any = parameter
    if is_dtensor(held):
        return held.detach().full_tensor()
    if hasattr(held, "_z3_optimizer") or hasattr(held, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(held)
    if hasattr(held, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([held]):
            return held.detach().clone()
    return held.detach()


@torch.no_grad()
def set_parameter(parameter: Tensor, value: Tensor) -> None:
    """Let a parameter be ``value``, which every rank has whole."""
    held: Any = parameter
    if hasattr(held, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([held], modifier_rank=0):
            held.copy_(value)
    else:
        held.copy_(own_part(value, held))
    if hasattr(held, "_z3_optimizer") or hasattr(held, "_hp_mapping"):
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(held, value.to(held.device, torch.float32))


def own_part(whole: Tensor, held: Any) -> Tensor:
    """What of a ``whole`` tensor this process holds where it holds ``held``; on the device of that."""
    whole = whole.to(held.device)
    if not is_dtensor(held):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, held.device_mesh, held.placements, src_data_rank=None)


def full_tensors(module: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``module`` in ``state_dict``, each whole; those that are whole already are left as they are."""
    parameters = dict(module.named_parameters())
    return {key: _full(value, parameters.get(key)) for key, value in state_dict.items()}


def _full(value: Tensor, parameter: Tensor | None) -> Tensor:
    if is_dtensor(value):
        return full_parameter(value)
    emptied = parameter is not None and hasattr(parameter, "ds_id") and not value.numel()  # as ZeRO-3 leaves them
    return full_parameter(parameter) if emptied and parameter is not None else value


def check_weights_are_here(model: nn.Module) -> None:
    """Refuse a model that FSDP will fill later on: a prefix is begun by letting it read.

    Raises:
        ValueError: Accelerate's config lets the first rank alone load the weights.
    """
    if is_fsdp_enabled():
        raise ValueError(
            f"fsdp_cpu_ram_efficient_loading lets the first rank alone load this {type(model).__name__}, and a "
            "prefix is begun by letting it read a few tokens, on every rank. Set it to false in Accelerate's config "
            "(FSDP_CPU_RAM_EFFICIENT_LOADING=false)."
        )


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, a model that was loaded in parts (``deepspeed.zero.Init``) has its weights, on every rank all of them."""
    parts = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id") and not parameter.numel()]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts):
        yield


def full_prefix(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """A ``state_dict`` to save: a prefix, and whatever else trains, whole and in float32, on the CPU.

    ``model.save_pretrained(directory)`` on all ranks is enough, but for DeepSpeed in 16 bits: there the model has
    rounded copies, and ``save_pretrained(directory, state_dict=full_prefix(model))`` writes the numbers behind them.
    """
    own = f".prefix_kv_encoder.{adapter_name}."
    held = {name: p for name, p in model.named_parameters() if own in name or p.requires_grad}
    held |= {name: buffer for name, buffer in model.named_buffers() if own in name}
    return {name: full_parameter(part).to("cpu", torch.float32, copy=True) for name, part in held.items()}
