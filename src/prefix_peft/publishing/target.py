"""Where a prefix goes, and what is written into it on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASE = "--base-model gpt2-medium"


@dataclass(frozen=True)
class Target:
    """A place on the Hub, and how it is committed to; the words are those of ``push_to_hub``."""

    repo_id: str
    revision: str | None = None
    subfolder: str = ""
    private: bool | None = None
    commit_message: str | None = None
    commit_description: str | None = None
    create_pr: bool = False
    token: str | bool | None = None


@dataclass(frozen=True)
class Options:
    """What is written into config and card on the way; the directory stays as it is."""

    base_model: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()
    replace_card: bool = False  # also one that somebody edited on the Hub
    how: str = BASE  # to say which base model it is, for an error
