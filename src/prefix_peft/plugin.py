"""The only file that touches PEFT's own tables.

PEFT 0.21 has no entry point for methods that live outside it, so this one is written into its tables under a type of
its own. Four of PEFT's functions are wrapped as well, each for what is said there; other methods notice nothing.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# (the types of another library's tables do not foresee what is written into them here)

from __future__ import annotations

from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import peft.peft_model
from peft.config import PeftConfigMixin
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .checkpoint import read_shapes
from .config import PREFIX_KV
from .resuming import is_checkpoint, is_more_than_its_release, loading_from, save_trained


def register(config_class: type, tuner_class: type) -> None:
    """Make PEFT and transformers treat ``config_class`` as they treat LoRA's. Harmless to repeat."""
    PEFT_TYPE_TO_CONFIG_MAPPING[PREFIX_KV] = config_class
    PEFT_TYPE_TO_TUNER_MAPPING[PREFIX_KV] = tuner_class
    PEFT_TYPE_TO_PREFIX_MAPPING[PREFIX_KV] = tuner_class.prefix
    _read_the_weights_header_with_the_config(config_class)
    _accept_lists(tuner_class)
    _write_checkpoints_whole(tuner_class)
    _read_checkpoints_whole()


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


def _write_checkpoints_whole(tuner_class: type) -> None:
    """Let ``PeftModel.save_pretrained`` put beside a release what a trainer's checkpoint needs besides."""
    original = peft.peft_model.PeftModel.save_pretrained
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> None:
        original(self, save_directory, *args, **kwargs)
        given = signature(original).bind(self, save_directory, *args, **kwargs)
        given.apply_defaults()
        asked = given.arguments
        if not isinstance(self.base_model, tuner_class) or not is_checkpoint(save_directory):
            return
        if asked["is_main_process"] and asked["safe_serialization"]:
            state_dict = asked["kwargs"].get("state_dict") or self.state_dict()
            names = asked["selected_adapters"] or list(self.peft_config)
            for name in filter(lambda name: is_more_than_its_release(self.peft_config[name]), names):
                save_trained(self, name, state_dict, Path(save_directory, "" if name == "default" else name))

    save_pretrained.prefix_peft = True
    peft.peft_model.PeftModel.save_pretrained = save_pretrained


def _read_checkpoints_whole() -> None:
    """Let our tuner know, when it is handed a release to load, in which directory the release lay."""
    original = peft.peft_model.PeftModel.load_adapter
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def load_adapter(self: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        with loading_from(model_id, kwargs.get("subfolder")):
            return original(self, model_id, *args, **kwargs)

    load_adapter.prefix_peft = True
    peft.peft_model.PeftModel.load_adapter = load_adapter
