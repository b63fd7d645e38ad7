"""Progress bars, of which a machine with several ranks shows one."""

from __future__ import annotations

import os
from typing import Any

from tqdm.auto import tqdm


def bar(*args: Any, disable: bool = False, **options: Any) -> tqdm[Any]:
    """tqdm's, on the first rank of each machine; without ranks there is only that. TQDM_DISABLE=1 hides all."""
    hidden = {"disable": True} if disable or os.environ.get("LOCAL_RANK", "0") != "0" else {}
    return tqdm(*args, **options, **hidden)
