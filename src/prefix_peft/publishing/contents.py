"""What of a release goes up: the prefix, its config and its card, and nothing that was left beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft.utils import CONFIG_NAME
from peft.utils.other import SAFETENSORS_WEIGHTS_NAME

from ..card.files import CARD
from ..commands.models import PROMPT_FILE, recall_separator
from ..config import PREFIX_KV
from ..inside.release import Release, read_release
from ..training.results import LOG_FILE
from ..untrusted import check_inside, has_pickle, read_json
from .target import BASE

BESIDE = (PROMPT_FILE, LOG_FILE, "learning_curve.png")  # how to prompt it, and how it was trained
FILES = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, CARD, *BESIDE)
NAMES = ("base_model_name_or_path", "tokenizer_name_or_path")  # of a config: what may be a path of this machine


def read_config(directory: Path, named: object = "") -> dict[str, Any]:
    """The config of a release, which an error calls ``named``.

    Raises:
        ValueError: there is no prefix of ours in ``directory``.
    """
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{directory} holds no {CONFIG_NAME}; name the directory that `prefix-peft train` wrote.")
    config = read_json(check_inside(directory, path))
    kind = config.get("peft_type")
    if kind != str(PREFIX_KV):
        raise ValueError(
            f"{named or directory} holds an adapter of another kind ({str(kind)[:40]!r}), and no prefix of ours; "
            "leave it to PEFT's own push_to_hub and from_pretrained."
        )
    return config


def files_of(directory: Path) -> dict[str, Path]:
    """The files that go up, by name, each looked at.

    Raises:
        ValueError: the prefix is missing or broken, or a file is a link that leads out of ``directory``.
    """
    if not (directory / SAFETENSORS_WEIGHTS_NAME).exists() and not has_pickle(directory):
        raise ValueError(f"{directory} holds no {SAFETENSORS_WEIGHTS_NAME}; save the prefix there first.")
    looked_at(directory)
    return {name: check_inside(directory, directory / name) for name in FILES if (directory / name).is_file()}


def looked_at(directory: Path) -> Release:
    """A release whose files agree with each other.

    Raises:
        ValueError: they do not, are broken, or are not of this library.
    """
    release = read_release(str(directory))
    for site in release.sites:
        length, wanted = site.key.shape[1], release.config.length_at(site.name)
        if length != wanted:
            raise ValueError(
                f"{directory}: {site.name} has {length} virtual tokens, its config {wanted}; fetch or save it again."
            )
    recall_separator(str(directory), None)
    return release


def with_base_model(config: dict[str, Any], base_model: str | None, how: str = BASE) -> tuple[dict[str, Any], str]:
    """A config whose base model anybody can find, and the name of that model, which may be "".

    Raises:
        ValueError: the base model is a directory of this machine, and nobody said what it is on the Hub.
    """
    if base_model is not None and not is_id(base_model):
        raise ValueError(f"--base-model {base_model!r} is no name of a repository; give one such as {BASE}.")
    known = config.get(NAMES[0]) or ""
    if base_model is None and is_local(known):
        raise ValueError(
            f"the prefix was trained on {known}, a directory of this machine, which nobody else has. Say which model "
            f"of the Hub it is: {how}."
        )
    base = base_model or known
    return _renamed(config, {known} if base_model else set(), base), base


def _renamed(config: dict[str, Any], old: set[str], base: str) -> dict[str, Any]:
    """The base model's name for its old ones, wherever a config has them; tokenizers lie beside their models."""
    inner = config.get("trained_with")
    renamed = config | ({"trained_with": _renamed(inner, old, base)} if isinstance(inner, dict) else {})
    for name in NAMES:
        value = config.get(name)
        if isinstance(value, str) and value and (value in old or is_local(value)):
            renamed[name] = base
    return renamed


def is_id(name: str) -> bool:
    """Whether a repository can have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_local(name: str) -> bool:
    """Whether a model's name is a place on this machine."""
    return bool(name) and (Path(name).is_dir() or not is_id(name))


def local_paths(text: str) -> list[str]:
    """What in a text names a directory of this machine: under the home of its user, or where it runs."""
    homes = [str(place) for place in (Path.home(), Path.cwd()) if len(place.parts) > 1]
    found = {place for home in homes for place in re.findall(rf"{re.escape(home)}[^\s'\"`)]*", text)}
    return sorted(place.rstrip(".,;:") for place in found)


def as_json(config: dict[str, Any]) -> bytes:
    """A config as PEFT writes it."""
    return json.dumps(config, indent=2, sort_keys=True).encode()
