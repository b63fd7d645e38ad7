"""Progress bars, of which a machine with several ranks shows one."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def bar(*args: Any, disable: bool = False, **options: Any) -> tqdm:
    """tqdm's, on the first rank of each machine; without ranks there is only that."""
    return tqdm(*args, disable=disable or os.environ.get("LOCAL_RANK", "0") != "0", **options)
