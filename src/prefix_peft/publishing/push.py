"""A release goes to the Hub: looked at first, then in one commit, which is there whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.utils import validate_repo_id
from peft.utils import CONFIG_NAME

from ..card.files import CARD
from ..card.signature import is_by_hand
from .cards import Part, finished, notes_on, stays_on_the_hub
from .contents import as_json, files_of, read_config, with_base_model
from .errors import check_token, plainly
from .target import Options, Target


@dataclass
class Pushed:
    """What went up, where to, and what else there is to know."""

    repo_id: str
    commit: CommitInfo
    files: list[str]
    notes: list[str]

    @property
    def url(self) -> str:
        """Of the pull request or of the commit."""
        return self.commit.pr_url or str(self.commit.commit_url)


def push(directory: Path, target: Target, options: Options | None = None) -> Pushed:
    """Push the release in ``directory``; the Hub is asked for nothing before all of it was looked at.

    Raises:
        ValueError: the release cannot be published as it is, or there is no token.
        OSError: the Hub or the network refused; the files there are as they were.
    """
    return push_parts({"": directory}, directory, target, options or Options())


def push_parts(directories: Mapping[str, Path], home: Path, target: Target, options: Options) -> Pushed:
    """Push releases in one commit, by the subfolder that each is to have; the card for all of them is in ``home``."""
    validate_repo_id(target.repo_id)
    parts = [
        _part(directory, "/".join(filter(None, (target.subfolder, folder))), options)
        for folder, directory in directories.items()
    ]
    check_token(target.token)
    with plainly("pushing to", target.repo_id, target.revision):
        return _commit(parts, home, target, options)


def _part(directory: Path, folder: str, options: Options) -> Part:
    config, files = read_config(directory), files_of(directory)
    renamed, base = with_base_model(config, options.base_model, options.how)
    changed = {CONFIG_NAME: as_json(renamed)} if renamed != config else {}
    return Part(directory, {**files, **changed}, config, base, folder)


def _commit(parts: list[Part], home: Path, target: Target, options: Options) -> Pushed:
    api = HfApi(token=target.token)
    repo_id = api.create_repo(target.repo_id, private=target.private, exist_ok=True).repo_id
    _check_privacy(api, repo_id, target)
    if target.revision is not None and not target.create_pr and not target.revision.startswith("refs/"):
        api.create_branch(repo_id, branch=target.revision, exist_ok=True)
    files = {"/".join(filter(None, (part.folder, name))): file for part in parts for name, file in part.files.items()}
    notes = _settle_card(api, repo_id, finished(parts[0], home, repo_id, target, options), files, target, options)
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, str(file) if isinstance(file, Path) else file) for name, file in files.items()],
        commit_message=target.commit_message or "Upload prefix", commit_description=target.commit_description,
        revision=target.revision, create_pr=target.create_pr,
    )  # fmt: skip
    return Pushed(repo_id, commit, sorted(files), notes)


def _settle_card(
    api: HfApi, repo_id: str, text: str, files: dict[str, bytes | Path], target: Target, options: Options
) -> list[str]:
    """Put the card among the files, or leave it out where the Hub's is somebody's; what there is to say of it."""
    name = "/".join(filter(None, (target.subfolder, CARD)))
    if not options.replace_card and stays_on_the_hub(api, repo_id, name, text, target):
        files.pop(name, None)
        return [f"{name} was edited on the Hub and stays as it is there; --replace-card pushes yours."]
    files[name] = text.encode()
    return notes_on(text, repo_id) if is_by_hand(text) else []


def _check_privacy(api: HfApi, repo_id: str, target: Target) -> None:
    """The Hub leaves a repository that is there already as public as it is, whatever is asked for."""
    if target.private and not api.model_info(repo_id).private:
        raise ValueError(
            f"{repo_id} is there already, and public: nothing was pushed. Make it private in its settings, or leave "
            "--private out."
        )
