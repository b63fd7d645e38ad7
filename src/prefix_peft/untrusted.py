"""Files that somebody else wrote, looked at before a model changes: safetensors alone, whole, and in their place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft.utils import CONFIG_NAME
from peft.utils.other import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .config import DTYPES, Shapes

LARGEST_JSON = 2**24  # bytes of a config; a config of a thousand layers has a hundredth of it
MARK = "prefix_kv_encoder"  # in the names of the tensors that are a prefix's


def read_shapes(directory: str | os.PathLike[str], subfolder: str | None = None, **hub: Any) -> Shapes | None:
    """The shapes of the tensors in a release, by name, each of which was looked at; None where there is no file yet.

    Raises:
        ValueError: the file is no whole safetensors file, holds a number that is none, lies outside of the directory,
            or is a pickle, which is never opened.
    """
    path = Path(directory, subfolder or "", SAFETENSORS_WEIGHTS_NAME)
    if not Path(directory).is_dir():
        return _shapes(_download(str(directory), subfolder, **hub))
    for file in (path, path.with_name(CONFIG_NAME)):
        check_inside(directory, file)
    if path.exists():
        return _shapes(path)
    if has_pickle(directory, subfolder):
        raise ValueError(pickle_message(path.with_name(WEIGHTS_NAME)))
    return None


def has_pickle(directory: str | os.PathLike[str], subfolder: str | None = None) -> bool:
    """Whether the weights lie there as a pickle, perhaps besides."""
    return os.path.lexists(Path(directory, subfolder or "", WEIGHTS_NAME))


def pickle_message(path: object) -> str:
    """Why it is not read."""
    return (
        f"{path} would be a pickle, which can run code when read and is never opened. Save the prefix as safetensors."
    )


def check_inside(directory: str | os.PathLike[str], path: Path) -> Path:
    """``path``, unless it is a link that leads out of ``directory``.

    The Hub's cache is made of links, from ``snapshots/REVISION`` to the ``blobs`` beside, and from there to those that
    all its repositories share; they are followed.

    Raises:
        ValueError: with both ends of the link.
    """
    folder, real = Path(directory).resolve(), path.resolve()
    caches = [parent.parent for parent in folder.parents if parent.name == "snapshots"]
    homes = [folder, *(place / "blobs" for cache in caches for place in (cache, cache.parent))]
    if not any(real.is_relative_to(home) for home in homes):
        raise ValueError(
            f"{path} leads out of {directory}, to {real}: a release is read from its own directory alone. Copy the "
            "file into it, or name the directory where it lies."
        )
    return path


def read_json(path: str | os.PathLike[str], largest: int = LARGEST_JSON) -> dict[str, Any]:
    """The object in a JSON file of at most ``largest`` bytes.

    Raises:
        ValueError: the file is too large, no JSON, nested too deeply, or holds something else than an object.
    """
    if os.path.getsize(path) > largest:
        raise ValueError(f"{path} has {os.path.getsize(path):,} bytes; no such file has more than {largest:,}.")
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}). Fetch or save it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}. Fetch or save it again.")
    return value


def tensor_names(path: Path) -> list[str]:
    """The names in a safetensors file, whose tensors are not looked at."""
    with _opened(path) as file:
        return list(file.keys())


def read_tensors(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Some tensors of a safetensors file, if their numbers are some that a model can have.

    Raises:
        ValueError: the file is no whole safetensors file, or holds a number that is none.
    """
    with _opened(path) as file:
        return {name: _checked(path, name, file) for name in names}


def _shapes(path: Path) -> Shapes:
    with _opened(path) as file:
        return {name: tuple(_checked(path, name, file).shape) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"{path} is no file. Fetch or save it again.")
    try:
        with safe_open(path, framework="pt", backend="pread") as file:  # its mmap keeps something of every tensor
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}). Fetch or save it again.") from error


def _checked(path: Path, name: str, file: Any) -> Tensor:
    """One tensor, if its numbers are some that a model can have."""
    tensor = file.get_tensor(name)
    if MARK in name and str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"{path}: {name} is {tensor.dtype}; a prefix is written in one of {list(DTYPES)}.")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise ValueError(f"{path}: {name} holds NaN or infinity, which would make every output NaN.")
    return tensor


def _download(repo_id: str, subfolder: str | None, **hub: Any) -> Path:
    try:
        return Path(hf_hub_download(repo_id, SAFETENSORS_WEIGHTS_NAME, subfolder=subfolder, **hub))
    except EntryNotFoundError as error:
        raise ValueError(f"{repo_id} has no {SAFETENSORS_WEIGHTS_NAME}; {pickle_message(WEIGHTS_NAME)}") from error
