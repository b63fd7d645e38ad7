"""File systems of a process's own, to be filled up, made read-only or taken away (Linux, where it is allowed)."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

NEW_NAMESPACE, NEW_USER = 0x00020000, 0x10000000  # of unshare(2)


def are_allowed() -> bool:
    """Whether a process may mount something for itself; tried in a child, which then is gone with its mounts."""
    child = os.fork() if hasattr(os, "fork") else -1
    if child == 0:
        try:
            enter_namespace()
            mount("-t", "tmpfs", "tmpfs", "/tmp")
        except (OSError, AttributeError, subprocess.CalledProcessError):
            os._exit(1)
        os._exit(0)
    return child > 0 and os.waitpid(child, 0)[1] == 0


def enter_namespace() -> None:
    """From here on what this process mounts is seen by it alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NAMESPACE | (0 if os.geteuid() == 0 else NEW_USER)):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("--make-rprivate", "/")


def mount(*arguments: object) -> None:
    """As on the command line."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def unmount(directory: Path) -> None:
    """At once, also while files there are open."""
    subprocess.run(["umount", "-l", str(directory)], check=True, capture_output=True)


def new(directory: Path) -> None:
    """Mount an empty file system of 64 MiB at ``directory``, and know it by another name as well."""
    enter_namespace()
    directory.mkdir()
    store_of(directory).mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", store_of(directory))
    mount("--bind", store_of(directory), directory)


def store_of(directory: Path) -> Path:
    """The other name, which stays when `unmount` takes the first away."""
    return directory.with_name(f"{directory.name}-store")


def leave_room(directory: Path, kilobytes: int) -> None:
    """Make the file system as large as what is in it, and that much more."""
    space = os.statvfs(directory)
    used = (space.f_blocks - space.f_bfree) * space.f_frsize // 1024
    mount("-o", f"remount,size={used + kilobytes}k", store_of(directory))
