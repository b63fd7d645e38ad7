"""The only file that touches PEFT's own tables.

PEFT 0.21 has no entry point for methods that live outside it, so this one is written into its tables under a type of
its own. Three of PEFT's functions are wrapped as well, each for what is said there; other methods notice nothing.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# (the types of another library's tables do not foresee what is written into them here)

from __future__ import annotations

from functools import wraps
from typing import Any

import peft.peft_model
import torch
from peft.config import PeftConfigMixin
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from . import offloaded
from .checkpoint import read_shapes
from .config import PREFIX_KV
from .gathering import is_held_in_parts


def register(config_class: type, tuner_class: type) -> None:
    """Make PEFT and transformers treat ``config_class`` as they treat LoRA's. Harmless to repeat."""
    PEFT_TYPE_TO_CONFIG_MAPPING[PREFIX_KV] = config_class
    PEFT_TYPE_TO_TUNER_MAPPING[PREFIX_KV] = tuner_class
    PEFT_TYPE_TO_PREFIX_MAPPING[PREFIX_KV] = tuner_class.prefix
    _read_the_weights_header_with_the_config(config_class)
    _accept_lists(tuner_class)
    _write_once(tuner_class)
    offloaded.install()


def _read_the_weights_header_with_the_config(config_class: type) -> None:
    """Let a loaded config know what the file beside it declares, so that a model refuses a bad file before it changes.

    PEFT and transformers both change the model by the config first, and open the weights after.
    """
    original = PeftConfigMixin.from_pretrained.__func__
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def from_pretrained(cls: Any, directory: str, subfolder: str | None = None, **kwargs: Any) -> Any:
        config = original(cls, directory, subfolder=subfolder, **kwargs)
        if isinstance(config, config_class):
            hub = cls._split_kwargs(kwargs)[0]
            config.file_shapes = read_shapes(directory, subfolder, **hub)
        return config

    from_pretrained.prefix_peft = True
    PeftConfigMixin.from_pretrained = classmethod(from_pretrained)


def _accept_lists(tuner_class: type) -> None:
    """Let ``PeftModel.set_adapter`` take a list for our tuner, as transformers' and the tuner's own do."""
    original = peft.peft_model.PeftModel.set_adapter
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def set_adapter(self: Any, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        if isinstance(adapter_name, str) or not isinstance(self.base_model, tuner_class):
            return original(self, adapter_name, inference_mode=inference_mode)
        unknown = [name for name in adapter_name if name not in self.peft_config]
        if unknown or not adapter_name:
            raise ValueError(
                f"set_adapter got {adapter_name}; the adapters of this model are {list(self.peft_config)}."
            )
        self.base_model.set_adapter(list(adapter_name), inference_mode=inference_mode)
        self.active_adapter = adapter_name[0]

    set_adapter.prefix_peft = True
    peft.peft_model.PeftModel.set_adapter = set_adapter


def _write_once(tuner_class: type) -> None:
    """Let ``save_pretrained`` be called on all ranks that hold parts of a prefix: they gather it, the first writes."""
    original = peft.peft_model.PeftModel.save_pretrained
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.base_model, tuner_class) and is_held_in_parts(self):
            kwargs.setdefault("is_main_process", torch.distributed.get_rank() == 0)
        original(self, save_directory, *args, **kwargs)

    save_pretrained.prefix_peft = True
    peft.peft_model.PeftModel.save_pretrained = save_pretrained
