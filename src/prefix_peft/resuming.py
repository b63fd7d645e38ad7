"""What a checkpoint of a trainer holds beside the release: the numbers that were trained, where they are not P itself.

A release is P alone, from which neither an MLP (``prefix_projection``) nor units (``scale_parameter``) nor digits that
were rounded away (``release_dtype``) come back. So ``save_pretrained`` writes `TRAINED_NAME` as well, but only into a
directory named ``checkpoint-STEP``, as transformers' and TRL's trainers name theirs; and ``load_adapter`` reads it into
a prefix that trains in the same way. Whoever loads the directory as a release never opens it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path

from peft.utils.other import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .checkpoint import encoders_of
from .config import PrefixConfig
from .parts import join_parts

TRAINED_NAME = "adapter_training.safetensors"
RELEASE: str = "sha256 of " + SAFETENSORS_WEIGHTS_NAME  # of the release with which the file was written

_directory: ContextVar[Path | None] = ContextVar("prefix_peft_directory", default=None)


def is_checkpoint(directory: str | os.PathLike[str]) -> bool:
    """Whether a trainer would take this for one of its checkpoints."""
    return re.fullmatch(r"checkpoint-\d+", Path(directory).name) is not None


def is_more_than_its_release(config: PrefixConfig) -> bool:
    """Whether a prefix trains on numbers that its release does not hold."""
    in_other_numbers = config.prefix_projection or config.scale_parameter or config.release_dtype != "float32"
    return not config.inference_mode and in_other_numbers


def save_trained(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor], directory: Path) -> None:
    """Write what ``state_dict`` has of a prefix beside its release, which is already in ``directory``."""
    tensors: dict[str, Tensor] = {}
    for path, _ in encoders_of(model, adapter_name):
        own = {key.removeprefix(path): value for key, value in state_dict.items() if key.startswith(f"{path}.")}
        join_parts(own, ".")
        released = path.removesuffix(f".{adapter_name}")
        tensors |= {f"{released}{key}": value.detach().contiguous() for key, value in own.items()}
    save_file(tensors, directory / TRAINED_NAME, metadata={RELEASE: _digest(directory)})


@contextmanager
def loading_from(directory: str | os.PathLike[str], subfolder: str | None = None) -> Iterator[None]:
    """What is loaded inside the ``with`` block comes from ``directory``, which may also be the name of a repository."""
    token = _directory.set(Path(directory, subfolder or ""))
    try:
        yield
    finally:
        _directory.reset(token)


def trained_tensors() -> dict[str, Tensor] | None:
    """What was trained, by the names of a release, from where an adapter is being loaded.

    None where there is no such file, or one that was written with another release than the one that lies there now.

    Raises:
        ValueError: the file is truncated or not safetensors.
    """
    directory = _directory.get()
    if directory is None or not (directory / TRAINED_NAME).is_file():
        return None
    try:
        with safe_open(directory / TRAINED_NAME, framework="pt", backend="pread") as file:
            if (file.metadata() or {}).get(RELEASE) != _digest(directory):
                return None
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{directory / TRAINED_NAME} is broken ({error}); resume from an earlier one.") from error


def _digest(directory: Path) -> str:
    return sha256((directory / SAFETENSORS_WEIGHTS_NAME).read_bytes()).hexdigest()
