"""Files that are there whole or not at all: written beside their place, then moved there at once.

safetensors writes its files so by itself; this is for the small texts around them.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8; a process killed meanwhile leaves the file that was there before."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
