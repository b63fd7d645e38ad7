"""A run's place among the ranks: what Accelerate has to know of it before a model is prepared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import nn

from ..commands.arguments import RunArguments
from ..commands.launch import find_accelerator
from ..encoders import Trunk


def begin(arguments: RunArguments) -> Accelerator:
    """Accelerate as it was launched, and the same random numbers on every rank.

    Raises:
        ValueError: the launch did not get what it asked for, or asks for FSDP1.
    """
    accelerator = find_accelerator(arguments.mixed_precision)
    arguments.mixed_precision = accelerator.mixed_precision
    plugin: Any = accelerator.state.deepspeed_plugin
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _tell_deepspeed(plugin.deepspeed_config, arguments)
    if accelerator.distributed_type == DistributedType.FSDP:
        _tell_fsdp(accelerator)
    set_seed(arguments.seed)
    return accelerator


def _tell_deepspeed(config: dict[str, Any], arguments: RunArguments) -> None:
    """It wants to know beforehand; when a step is over, `synchronized` tells it, for an epoch's last is shorter."""
    config["train_micro_batch_size_per_gpu"] = arguments.per_device_train_batch_size
    config["train_batch_size"] = "auto"
    config["gradient_accumulation_steps"] = 1
    config["gradient_clipping"] = arguments.max_grad_norm


def _tell_fsdp(accelerator: Accelerator) -> None:
    if not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP1 puts frozen and trained parameters into one flat tensor. Launch with fsdp_version: 2 in "
            "Accelerate's config (or FSDP_VERSION=2)."
        )
    # every rank loads the base model, for a prefix is begun by letting it read
    plugin: Any = accelerator.state.fsdp_plugin
    plugin.cpu_ram_efficient_loading = False
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Accelerate's ``prepare``, each rank drawing random numbers of its own from here on."""
    if accelerator.is_fsdp2:
        _shard_trunks(accelerator.state.fsdp_plugin, model)
    if accelerator.process_index:
        torch.manual_seed(torch.initial_seed() + accelerator.process_index)
    return accelerator.prepare(model, optimizer)


def _shard_trunks(plugin: Any, model: Any) -> None:
    """An MLP's shared part is a unit of its own, for all layers ask for it."""
    if any(isinstance(module, Trunk) for module in model.modules()):
        names = plugin.transformer_cls_names_to_wrap or list(model._no_split_modules or [])
        plugin.transformer_cls_names_to_wrap = [*dict.fromkeys([*names, Trunk.__name__])]


def leave() -> None:
    """Part from the other ranks when all are done: who just ends tears the connections of those that are not."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@contextmanager
def synchronized(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Around one forward and backward pass: ranks put their gradients together after the ``last`` of a step only."""
    accelerator.sync_gradients = last  # DeepSpeed asks for it: its backward pass takes the step as well
    with nullcontext() if last else accelerator.no_sync(model):
        yield
