"""Before a prefix is loaded its files are looked at, so that a bad one is refused before the model changes.

PEFT and transformers both change the model by the config first, and open the weights after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..checkpoint import check_loads
from ..config import PrefixConfig, Shapes
from ..resuming import loading_from
from ..untrusted import has_pickle, pickle_message, read_json, read_shapes

# What the call in progress will open, besides the config: nothing, "weights", or "pickle" where it prefers one.
_OPENS: ContextVar[str] = ContextVar("prefix_peft_opens", default="")


def read_config(original: Callable[..., Any], cls: Any, path: str, **kwargs: Any) -> dict[str, Any]:
    """For ``PeftConfig.from_json_file``: a file that holds no config is refused by its name."""
    kind = read_json(path).get("peft_type", "")
    if not isinstance(kind, str):
        raise ValueError(f"{path} has the peft_type {kind!r}, which must be a name. Fetch or save it again.")
    return original(cls, path, **kwargs)


def load_config(
    original: Callable[..., Any], cls: Any, directory: str, subfolder: str | None = None, **kwargs: Any
) -> Any:
    """For ``PeftConfig.from_pretrained``: the config knows what the file beside it declares."""
    config = original(cls, directory, subfolder=subfolder, **kwargs)
    if isinstance(config, PrefixConfig):
        config.file_shapes = _look(config, directory, {**kwargs, "subfolder": subfolder})
    return config


def load_model(original: Callable[..., Any], cls: Any, model: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
    """For ``PeftModel.from_pretrained``: the same where a config is given beside the weights."""
    given = dict(zip(("adapter_name", "is_trainable", "config"), args, strict=False)) | kwargs
    with _opening("weights"):
        config: Any = given.get("config")
        if _is_ours(config, model_id):
            config.file_shapes = _look(config, model_id, kwargs)
        return original(cls, model, model_id, *args, **kwargs)


def load_adapter(
    original: Callable[..., Any], model: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any
) -> Any:
    """For ``PeftModel.load_adapter``: the same where the weights go into an adapter that is there already."""
    looked_at = bool(_OPENS.get())
    with _opening("weights"), loading_from(model_id, kwargs.get("subfolder")):
        if not looked_at and _is_ours(config := model.peft_config.get(adapter_name), model_id):
            check_loads(_look(config, model_id, kwargs) or {}, model, adapter_name, config)
        return original(model, model_id, adapter_name, *args, **kwargs)


def load_into_transformers(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """For transformers' own ``load_adapter``."""
    given = dict(zip(("peft_model_id", "adapter_name", "peft_config"), args, strict=False)) | kwargs
    settings = given.get("load_config")
    prefers_pickle = given.get("use_safetensors", getattr(settings, "use_safetensors", None)) is False
    with _opening("pickle" if prefers_pickle else "weights"):
        config: Any = given.get("peft_config")
        if _is_ours(config, given.get("peft_model_id")):
            config.file_shapes = _look(config, given["peft_model_id"], given.get("adapter_kwargs") or {})
        return original(model, *args, **kwargs)


def _is_ours(config: Any, directory: Any) -> bool:
    return isinstance(config, PrefixConfig) and directory is not None


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
