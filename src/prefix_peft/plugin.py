"""The only file that touches PEFT's own tables.

PEFT 0.21 has no entry point for methods that live outside it, so this one is written into its tables under a type of
its own. Some of PEFT's functions, and the one of transformers that loads an adapter, are wrapped as well, each for what
is said there; other methods notice nothing.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# (the types of another library's tables do not foresee what is written into them here)

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import peft.peft_model
import torch
from peft.config import PeftConfigMixin
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from transformers.integrations.peft import PeftAdapterMixin

from . import offloaded
from .checkpoint import check_loads
from .config import PREFIX_KV, Shapes
from .gathering import full_prefix, is_held_in_parts
from .resuming import is_checkpoint, is_more_than_its_release, loading_from, save_trained
from .untrusted import has_pickle, pickle_message, read_json, read_shapes

# What the call in progress will open, besides the config: nothing, "weights", or "pickle" where it prefers one.
_OPENS: ContextVar[str] = ContextVar("prefix_peft_opens", default="")


def register(config_class: type, tuner_class: type) -> None:
    """Make PEFT and transformers treat ``config_class`` as they treat LoRA's. Harmless to repeat."""
    PEFT_TYPE_TO_CONFIG_MAPPING[PREFIX_KV] = config_class
    PEFT_TYPE_TO_TUNER_MAPPING[PREFIX_KV] = tuner_class
    PEFT_TYPE_TO_PREFIX_MAPPING[PREFIX_KV] = tuner_class.prefix
    _refuse_what_is_no_config()
    _look_at_the_weights_with_the_config(config_class)
    _look_at_the_weights_before_they_are_loaded(config_class)
    _accept_lists(tuner_class)
    _write_once_and_whole(tuner_class)
    offloaded.install()


def _refuse_what_is_no_config() -> None:
    """Let a file that holds no config be refused by its name, before its method is known."""
    original = PeftConfigMixin.from_json_file.__func__
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def from_json_file(cls: Any, path: str, **kwargs: Any) -> dict[str, Any]:
        kind = read_json(path).get("peft_type", "")
        if not isinstance(kind, str):
            raise ValueError(f"{path} has the peft_type {kind!r}, which must be a name. Fetch or save it again.")
        return original(cls, path, **kwargs)

    from_json_file.prefix_peft = True
    PeftConfigMixin.from_json_file = classmethod(from_json_file)


def _look_at_the_weights_with_the_config(config_class: type) -> None:
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
            config.file_shapes = _look(config, directory, {**kwargs, "subfolder": subfolder})
        return config

    from_pretrained.prefix_peft = True
    PeftConfigMixin.from_pretrained = classmethod(from_pretrained)


def _look_at_the_weights_before_they_are_loaded(config_class: type) -> None:
    """The same where a config is given beside the weights, and where they go into an adapter that is there already."""
    if hasattr(PeftAdapterMixin.load_adapter, "prefix_peft"):
        return

    def is_ours(config: Any, directory: Any) -> bool:
        return isinstance(config, config_class) and directory is not None

    def from_pretrained(original: Callable, cls: Any, model: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("adapter_name", "is_trainable", "config"), args, strict=False)) | kwargs
        config: Any = given.get("config")
        with _opening("weights"):
            if is_ours(config, model_id):
                config.file_shapes = _look(config, model_id, kwargs)
            return original(cls, model, model_id, *args, **kwargs)

    def load_adapter(original: Callable, self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        looked_at = bool(_OPENS.get())
        with _opening("weights"), loading_from(model_id, kwargs.get("subfolder")):
            if not looked_at and is_ours(config := self.peft_config.get(adapter_name), model_id):
                check_loads(_look(config, model_id, kwargs) or {}, self, adapter_name, config)
            return original(self, model_id, adapter_name, *args, **kwargs)

    def load_into_transformers(original: Callable, self: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("peft_model_id", "adapter_name", "peft_config"), args, strict=False)) | kwargs
        config: Any = given.get("peft_config")
        directory, settings = given.get("peft_model_id"), given.get("load_config")
        prefers_pickle = given.get("use_safetensors", getattr(settings, "use_safetensors", None)) is False
        with _opening("pickle" if prefers_pickle else "weights"):
            if is_ours(config, directory):
                config.file_shapes = _look(config, directory, given.get("adapter_kwargs") or {})
            return original(self, *args, **kwargs)

    model = peft.peft_model.PeftModel
    model.from_pretrained = classmethod(_wrapped(model.from_pretrained.__func__, from_pretrained))
    model.load_adapter = _wrapped(model.load_adapter, load_adapter)
    PeftAdapterMixin.load_adapter = _wrapped(PeftAdapterMixin.load_adapter, load_into_transformers)


def _look(config: Any, directory: Any, kwargs: dict[str, Any]) -> Shapes | None:
    """The shapes of the weights in ``directory``, if they may be opened; None where none need be there."""
    hub = config._split_kwargs(kwargs)[0]
    subfolder = hub.pop("subfolder", None)
    shapes = read_shapes(directory, subfolder, **hub)
    if _OPENS.get() == "pickle" and (has_pickle(directory, subfolder) or not Path(directory).is_dir()):
        raise ValueError(f"use_safetensors=False asks for {directory}'s pickle; {pickle_message('adapter_model.bin')}")
    if _OPENS.get() and shapes is None:
        raise ValueError(f"{Path(directory, subfolder or '')} holds no adapter_model.safetensors to load.")
    return shapes


@contextmanager
def _opening(what: str) -> Iterator[None]:
    token = _OPENS.set(what)
    try:
        yield
    finally:
        _OPENS.reset(token)


def _wrapped(original: Callable, function: Callable) -> Callable:
    @wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    wrapper.prefix_peft = True
    return wrapper


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


def _write_once_and_whole(tuner_class: type) -> None:
    """Let ``save_pretrained`` be called on all ranks that hold parts of a prefix: they gather it, the first writes.

    Beside the release it also puts what a trainer's checkpoint needs besides.
    """
    original = peft.peft_model.PeftModel.save_pretrained
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self.base_model, tuner_class):
            return original(self, save_directory, *args, **kwargs)
        in_parts = is_held_in_parts(self)
        if in_parts:
            kwargs.setdefault("is_main_process", torch.distributed.get_rank() == 0)
        original(self, save_directory, *args, **kwargs)
        given = signature(original).bind(self, save_directory, *args, **kwargs)
        given.apply_defaults()
        asked = given.arguments
        if not is_checkpoint(save_directory) or not asked["safe_serialization"]:
            return None
        names = asked["selected_adapters"] or list(self.peft_config)
        for name in filter(lambda name: is_more_than_its_release(self.peft_config[name]), names):
            held = full_prefix(self, name) if in_parts else asked["kwargs"].get("state_dict") or self.state_dict()
            if asked["is_main_process"]:
                save_trained(self, name, held, Path(save_directory, "" if name == "default" else name))

    save_pretrained.prefix_peft = True
    peft.peft_model.PeftModel.save_pretrained = save_pretrained
