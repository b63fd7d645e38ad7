"""What an optimizer remembers of a parameter, whole, where FSDP2 or ZeRO has given each rank a part of it.

All ranks call these together. Under DeepSpeed they know AdamW's moments.
"""

# pyright: reportMissingImports=false
# (DeepSpeed is imported where it is in use)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..gathering import is_dtensor, own_part

ADAM = ("exp_avg", "exp_avg_sq")  # of the parameter's shape; DeepSpeed holds them flat, together with others


def moments(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """By the names of torch's optimizer."""
    zero = _zero_optimizer(optimizer)
    if zero is None:
        return {key: _whole(value) for key, value in optimizer.state[parameter].items()}
    from deepspeed.utils import safe_get_full_optimizer_state

    step = next(iter(zero.optimizer.state.values()))["step"]
    return {"step": torch.as_tensor(step).clone()} | {
        key: safe_get_full_optimizer_state(parameter, key) for key in ADAM
    }


def set_moments(optimizer: Any, parameter: Tensor, found: Mapping[str, Tensor]) -> None:
    """Let the optimizer remember what `moments` found."""
    zero = _zero_optimizer(optimizer)
    if zero is None:
        parts = {key: value if key == "step" else own_part(value, parameter) for key, value in found.items()}
        optimizer.state[parameter].update(parts)
        return
    from deepspeed.utils import safe_set_full_optimizer_state

    _begin(zero, found["step"])
    for key in ADAM:
        safe_set_full_optimizer_state(parameter, found[key].to(parameter.device), key)


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if is_dtensor(value) else torch.as_tensor(value)


def _zero_optimizer(optimizer: Any) -> Any:
    """DeepSpeed's, where Accelerate has wrapped it; None for torch's."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if hasattr(inner, "fp32_partitioned_groups_flat") or hasattr(inner, "bit16_groups") else None


def _begin(zero: Any, step: Tensor) -> None:
    """Make room for the moments, which would come with the first step."""
    flat = getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups
    for part in flat:
        if not zero.optimizer.state[part]:
            zero.optimizer.state[part] = {"step": step.clone()} | {key: torch.zeros_like(part) for key in ADAM}
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # ZeRO-2 lets each parameter know its part of them
        zero._lazy_init_hp_params_optimizer_state()
