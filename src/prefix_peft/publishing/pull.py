"""A prefix comes from the Hub: looked at as what anybody may have put there, before it is put anywhere."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile, copytree
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import validate_repo_id
from peft.utils import CONFIG_NAME
from peft.utils.other import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from ..inside.release import Release
from ..untrusted import pickle_message
from ..whole import whole_files
from .contents import FILES, is_local, looked_at, read_config
from .errors import plainly


@dataclass(frozen=True)
class Pulled:
    """What came: the release as its files have it, and the commit that it was."""

    directory: Path
    release: Release
    commit: str

    @property
    def facts(self) -> dict[str, str]:
        """What it is, for a table; nothing in it moves a terminal's cursor."""
        facts = self.release.facts | {"prefix": str(self.directory), "commit": self.commit}
        return {key: "".join(c if c.isprintable() else "?" for c in value)[:200] for key, value in facts.items()}

    @property
    def how_to_use(self) -> str:
        """A command that can be pasted, whatever the config names as its base model."""
        base = self.release.config.base_model_name_or_path or ""
        if not base or is_local(base):
            named = f"{base[:100]!r}, no repository of the Hub" if base else "none"
            return f"Its config says which base model it is for: {named}. Ask who published it, then: --model NAME."
        adapter = shlex.quote(str(self.directory))
        return f'Try it: prefix-peft generate --model {shlex.quote(base)} --adapter {adapter} --prompt "..."'


def pull(
    repo_id: str,
    directory: Path,
    revision: str | None = None,
    subfolder: str = "",
    force: bool = False,
    token: str | bool | None = None,
) -> Pulled:
    """Fetch the prefix in ``repo_id`` into ``directory``; nothing there changes before all of it was looked at.

    Raises:
        ValueError: what is there is no prefix of this library, is broken, or is a pickle; or ``directory`` is in use.
        OSError: the Hub or the network refused.
    """
    validate_repo_id(repo_id)
    if not force and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is there already; name a new directory, or --force to replace the prefix in it.")
    with TemporaryDirectory() as place:
        commit = _fetch(repo_id, Path(place), revision, subfolder, token)
        try:
            release = looked_at(Path(place))
        except ValueError as fault:
            raise ValueError(str(fault).replace(place, repo_id)) from fault
        directory.mkdir(parents=True, exist_ok=True)
        with whole_files(directory) as draft:
            copytree(place, draft, dirs_exist_ok=True)
    return Pulled(directory, release, commit)


def _fetch(repo_id: str, place: Path, revision: str | None, subfolder: str, token: str | bool | None) -> str:
    """Put the files of a release into ``place``; returns the commit that they are of."""
    with plainly("pulling", repo_id, revision):
        info = HfApi(token=token).model_info(repo_id, revision=revision)
        for name in _names({file.rfilename for file in info.siblings or []}, repo_id, subfolder):
            path = hf_hub_download(repo_id, name, subfolder=subfolder or None, revision=info.sha, token=token)
            copyfile(path, place / name)
            if name == CONFIG_NAME:  # the first: what else there is to fetch may be large, and of another kind
                read_config(place, repo_id)
    return str(info.sha)


def _names(there: set[str], repo_id: str, subfolder: str) -> list[str]:
    """Of the files of a release those that are there."""
    at, where = (f"{subfolder}/", f"{repo_id}/{subfolder}") if subfolder else ("", repo_id)
    if f"{at}{CONFIG_NAME}" not in there:
        others = sorted(name.removesuffix(f"/{CONFIG_NAME}") for name in there if name.endswith(f"/{CONFIG_NAME}"))
        more = f"; there are some in the subfolders {others[:8]}: --subfolder {others[0]}" if others else ""
        raise ValueError(f"{where} holds no adapter (no {CONFIG_NAME}){more}.")
    if f"{at}{SAFETENSORS_WEIGHTS_NAME}" not in there:
        pickle = f"; {pickle_message(WEIGHTS_NAME)}" if f"{at}{WEIGHTS_NAME}" in there else "."
        raise ValueError(f"{where} has no {SAFETENSORS_WEIGHTS_NAME}{pickle}")
    return [name for name in FILES if f"{at}{name}" in there]
