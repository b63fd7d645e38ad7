"""Files and directories that are there whole or not at all, also after a power cut.

Each is written beside its place as a draft, forced onto the disk, and moved there at once. A process that is killed
meanwhile leaves a draft, which `sweep` takes away when the next one starts.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>draft|old)")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8; whatever happens meanwhile, the file that was there before stays until this one is."""
    draft = _beside(path, "draft")
    try:
        draft.write_text(text, encoding="utf-8")
        _settle(draft)
        draft.replace(path)
        _settle(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """An empty directory to fill, which afterwards is ``path``, instead of what was there.

    Raises:
        FileNotFoundError: there is no directory for it to be in; none is made, for a disk may have been there.
    """
    with _draft(path) as draft:
        yield draft
        _settle_all(draft)
        if path.exists():  # moved away whole, for one half removed would look like one
            path.rename(old := _beside(path, "old"))
            draft.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            draft.rename(path)
        _settle(path.parent)


@contextmanager
def whole_files(directory: Path) -> Iterator[Path]:
    """An empty directory to fill, whose files are afterwards in ``directory``; none of them where anything fails."""
    with _draft(directory / "files") as draft:
        yield draft
        _settle_all(draft)
        for file in sorted(draft.iterdir()):
            file.replace(directory / file.name)
        _settle(directory)


def remove(directory: Path) -> None:
    """Take a directory away at once: nobody sees a half of it."""
    draft = _beside(directory, "draft")
    directory.rename(draft)
    shutil.rmtree(draft, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Take away what killed processes left in ``directory``; what one had moved aside for a new one, move back."""
    for path in directory.iterdir():
        left = _LEFT.fullmatch(path.name)
        if left is None or _is_alive(int(left["process"])):
            continue
        place = directory / left["name"]
        if left["kind"] == "old" and not place.exists():
            path.rename(place)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    draft = _beside(path, "draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether another process has this number. Our own was someone else's, such as in the container before this one."""
    return process != os.getpid() and psutil.pid_exists(process)


def _settle_all(directory: Path) -> None:
    for path in directory.rglob("*"):
        _settle(path)
    _settle(directory)


def _settle(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk, where a rename may else come before its file."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no directories
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing to wait for
            raise
    finally:
        os.close(descriptor)
