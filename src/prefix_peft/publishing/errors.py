"""What the Hub's client raises, in one line with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

HTTPError: Any = HfHubHTTPError.__bases__[0]  # of the client's HTTP library, which has changed its name before
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
TOKENS = "https://huggingface.co/settings/tokens"


def check_token(token: str | bool | None = None) -> None:
    """Nothing can be pushed without a token.

    Raises:
        ValueError: there is none.
    """
    if token is False or (not isinstance(token, str) and get_token() is None):
        raise ValueError(f"pushing needs a token of the Hub, and there is none: {LOG_IN} ({TOKENS} makes one).")


@contextmanager
def plainly(doing: str, repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Let what goes wrong inside the ``with`` block be said in one line.

    Raises:
        OSError: what the Hub or the network did, and what to do about it.
    """
    try:
        yield
    except RuntimeError as error:  # of uploads: what happened is its cause, or it is Xet's own
        raise OSError(_explained(error.__cause__ or error, doing, repo_id, revision)) from error
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise OSError(_explained(error, doing, repo_id, revision)) from error


def _explained(error: BaseException, doing: str, repo_id: str, revision: str | None) -> str:
    reason = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
    if isinstance(error, OfflineModeIsEnabled):
        return f"{doing} {repo_id} needs the network, and HF_HUB_OFFLINE forbids it; unset that."
    if not isinstance(error, HfHubHTTPError):
        return f"{doing} {repo_id} was cut short: {reason} ({constants.ENDPOINT}). Check the network, then try again."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}; {_branches(repo_id)}."
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: ask for access at {constants.ENDPOINT}/{repo_id}, and {LOG_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo_id} is not at {constants.ENDPOINT}, or it is private and not yours to see. Check the name, and "
            f"{LOG_IN}."
        )
    return _refused(error, doing, repo_id, reason)


def _refused(error: HfHubHTTPError, doing: str, repo_id: str, reason: str) -> str:
    status = error.response.status_code
    if status == 401:
        return f"{doing} {repo_id} was refused: the Hub does not know your token; {LOG_IN} ({TOKENS} makes one)."
    if status == 403:
        return (
            f"{doing} {repo_id} was refused: your token may not write there. Use a name of your own (`hf auth whoami` "
            f"says which), or a token that may ({TOKENS})."
        )
    return f"{doing} {repo_id} failed: {error.server_message or reason}. Try again."


def _branches(repo_id: str) -> str:
    try:
        refs = HfApi().list_repo_refs(repo_id)
    except HTTPError:
        return "look for its branches there"
    return f"choose from {[ref.name for ref in [*refs.branches, *refs.tags]]}"
