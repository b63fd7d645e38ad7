"""Keys in pages: what transformers' continuous batching keeps in place of a cache for each row.

All requests lie side by side in one row, and the attention function itself writes the new keys to the pages and reads
all that belong to the batch. Here that is done just before, so that a prefix can come to the left of what was read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .terms import AttentionCall


def read_pages(call: AttentionCall) -> AttentionCall:
    """``call`` with all keys and values of the batch, its own among them; one of an ordinary cache as it is."""
    if call.options.get("cache") is None:
        return call
    options: dict[str, Any] = dict(call.options)
    key, value = options["cache"].update(
        key_states=call.key, value_states=call.value, layer_idx=call.module.layer_idx, kwargs=options
    )
    return call._replace(key=key, value=value, options=options | {"cache": _Read()})


class _Read:
    """Stands where an attention function expects the pages, once they have been read."""

    def update(self, key_states: Tensor, value_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states
