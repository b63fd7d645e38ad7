"""The card that goes up: of ours the repository is filled in, a person's is left as it is, here and there."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..card.facts import Facts
from ..card.files import CARD, changed, new_card, read_card
from ..card.metadata import set_base_model
from ..card.page import HERE, loading, with_loading
from ..card.signature import is_by_hand, unsigned
from ..untrusted import read_shapes
from .contents import local_paths
from .target import Options, Target


@dataclass(frozen=True)
class Part:
    """A release as it goes up: its files, what its config says, and the base model under its public name."""

    directory: Path
    files: dict[str, bytes | Path]
    config: dict[str, Any]
    base_model: str
    folder: str  # in the repository, "" for the top


def finished(part: Part, home: Path, repo_id: str, target: Target, options: Options) -> str:
    """The text of the card in ``home``, or of a new one, with what is known now."""
    text = read_card(home) or new_card(_known(part))
    old = part.config.get("base_model_name_or_path") or ""
    if unsigned(text) is None:
        return text if is_by_hand(text) or not old else text.replace(old, part.base_model)

    def fill_in(card: ModelCard) -> None:
        data: Any = card.data
        known, data.license = data.base_model, options.license or data.license
        if part.base_model:
            set_base_model(data, part.base_model)
        data.tags = list(dict.fromkeys([*(data.tags or []), *options.tags]))
        data.model_name = repo_id.split("/")[-1] if data.eval_results else None
        how = loading(part.base_model, part.config.get("task_type"), repo_id, target.revision or "", part.folder)
        card.text = "\n" + with_loading(card.text, how).replace(_row(known), _row(part.base_model))

    return changed(text, fill_in) or text


def _row(base_model: str | None) -> str:
    return f"| base model | `{base_model}` |"


def _known(part: Part) -> Facts:
    """For a release that was saved without a card; `looked_at` has read its config."""
    shapes, config = read_shapes(part.directory) or {}, part.config
    return Facts(
        base_model=part.base_model, task_type=config.get("task_type"), parameters=sum(map(prod, shapes.values())),
        num_virtual_tokens=config["num_virtual_tokens"], dtype=config.get("release_dtype", "float32"),
    )  # fmt: skip


def notes_on(text: str, repo_id: str) -> list[str]:
    """What a card that somebody wrote still has to be told."""
    notes = []
    if HERE in text:
        notes.append(f"{CARD} was edited by hand and went up as it is; it has {HERE!r} where {repo_id!r} belongs.")
    if paths := local_paths(text):
        notes.append(f"{CARD} names places of this machine: {', '.join(paths[:3])}. Everybody can read that now.")
    return notes


def stays_on_the_hub(api: HfApi, repo_id: str, name: str, text: str, target: Target) -> bool:
    """Whether the Hub has another card there that somebody wrote or edited, in the browser perhaps."""
    if target.create_pr:
        return False  # whoever merges it sees what it changes
    try:
        path = hf_hub_download(repo_id, name, revision=target.revision, token=api.token)
    except EntryNotFoundError:
        return False
    theirs = Path(path).read_text(encoding="utf-8")
    return is_by_hand(theirs) and theirs != text
