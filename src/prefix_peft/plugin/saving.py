"""Saving a prefix that several processes hold in parts, or of which a trainer needs more than the release."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from ..gathering import full_prefix, is_held_in_parts
from ..model import PrefixModel
from ..resuming import is_checkpoint, is_more_than_its_release, save_trained


def save_model(original: Callable[..., Any], model: Any, save_directory: str, *args: Any, **kwargs: Any) -> None:
    """For ``PeftModel.save_pretrained``: all ranks that hold parts of a prefix call it, and the first writes.

    Beside the release it also puts what a trainer's checkpoint needs besides.
    """
    if not isinstance(model.base_model, PrefixModel):
        return original(model, save_directory, *args, **kwargs)
    in_parts = is_held_in_parts(model)
    if in_parts:
        kwargs.setdefault("is_main_process", torch.distributed.get_rank() == 0)
    original(model, save_directory, *args, **kwargs)
    given = signature(original).bind(model, save_directory, *args, **kwargs)
    given.apply_defaults()
    asked = given.arguments
    if not is_checkpoint(save_directory) or not asked["safe_serialization"]:
        return None
    names = asked["selected_adapters"] or list(model.peft_config)
    for name in filter(lambda name: is_more_than_its_release(model.peft_config[name]), names):
        held = full_prefix(model, name) if in_parts else asked["kwargs"].get("state_dict") or model.state_dict()
        if asked["is_main_process"]:
            save_trained(model, name, held, Path(save_directory, "" if name == "default" else name))
