"""The registry of formats, and how a file is told to be of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import CONFIG_NAME
from torch import Tensor
from transformers import PreTrainedModel

from ..untrusted import check_inside, pickle_message, read_json, read_tensors, tensor_names
from .attaching import attach
from .content import Content

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".torch", ".pkl", ".pickle")
WEIGHTS = ("adapter_model.safetensors", "adapter.safetensors")  # where several files lie in a directory
AS_SAFETENSORS = """
If you trust whoever made it, two lines make a safetensors file of it, in an environment that holds nothing of value:
  state = torch.load({name!r}, map_location="cpu", weights_only=False)
  safetensors.torch.save_file({{k: (v if torch.is_tensor(v) else torch.stack(list(v))).detach().clone().contiguous() \
for k, v in state.items() if len(v)}}, "prefix.safetensors")"""


@dataclass(frozen=True)
class Source:
    """A prefix on disk: its weights, and the config beside them, if there is one."""

    file: Path
    config: dict[str, Any]
    names: frozenset[str]  # of the tensors

    def tensors(self, *beginnings: str) -> dict[str, Tensor]:
        """Those whose names begin so."""
        return read_tensors(self.file, [name for name in sorted(self.names) if name.startswith(beginnings)])

    def setting(self, key: str, kind: type[Any], default: Any = None) -> Any:
        """An entry of the config.

        Raises:
            ValueError: it is of another kind.
        """
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"{self.file.with_name(CONFIG_NAME)} has {key}={str(value)[:100]!r}, not {kind.__name__}.")
        return value


class Format:
    """One way to keep a prefix. What one kind of file cannot say is refused where it is read or written."""

    name = ""
    is_cache = True  # what it holds is put into the model's cache, where the text follows
    is_written = True

    def recognises(self, source: Source) -> bool:
        """Whether ``source`` is of this format."""
        raise NotImplementedError

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """What ``source`` holds for ``model``; ``notes`` gets what a user should know of it."""
        raise NotImplementedError

    def load(self, source: Source, model: PreTrainedModel, notes: list[str]) -> PeftModel:
        """``model`` with the prefix, which does what it did where it comes from."""
        return attach(model, self.read(source, model, notes))

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """Write the active prefix of ``model``."""
        raise NotImplementedError


FORMATS: dict[str, Format] = {}


def register_format(name: str) -> Callable[[type[Format]], type[Format]]:
    """Let ``prefix-peft convert`` know the decorated class by this name."""

    def add(kind: type[Format]) -> type[Format]:
        if name in FORMATS:
            raise ValueError(f"format {name!r} is already {type(FORMATS[name]).__name__}; choose another name.")
        kind.name = name
        FORMATS[name] = kind()
        return kind

    return add


def format_named(name: str) -> Format:
    """The format of this name."""
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; choose from {sorted(FORMATS)}.")
    return FORMATS[name]


def look(path: str | Path) -> tuple[Source, Format]:
    """What lies at ``path``, a safetensors file or a directory with one, and its format. No tensor is read yet.

    Raises:
        ValueError: a pickle, which is never opened; nothing that is known; or a link that leads out of the directory.
    """
    file = _weights(Path(path))
    config = file.with_name(CONFIG_NAME)
    check_inside(config.parent, config)
    source = Source(file, read_json(config) if config.is_file() else {}, frozenset(tensor_names(file)))
    for known in FORMATS.values():
        if known.recognises(source):
            return source, known
    raise ValueError(
        f"{file} is of no known format; its tensors are {sorted(source.names)[:6]}, and the formats {sorted(FORMATS)}."
    )


def _weights(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path} does not exist. Fetch what is on the Hub first: hf download ID --local-dir DIR.")
    if not path.is_dir():
        return _check_kind(path)
    found = sorted(path.glob("*.safetensors"))
    chosen = [path / name for name in WEIGHTS if path / name in found] or found
    if len(chosen) == 1 or (chosen and chosen[0].name in WEIGHTS):
        return check_inside(path, chosen[0])
    pickles = [file for file in sorted(path.iterdir()) if file.suffix in PICKLES]
    if pickles and not chosen:
        _check_kind(pickles[0])
    raise ValueError(f"{path} holds {len(chosen)} safetensors files; name the one that is the prefix.")


def _check_kind(path: Path) -> Path:
    if path.suffix in PICKLES:
        raise ValueError(pickle_message(path) + AS_SAFETENSORS.format(name=str(path)))
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no safetensors file; give one, or the directory that holds it.")
    return path
