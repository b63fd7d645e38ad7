"""Counting bytes: of the tensors that live at once, operation by operation, and of those that a model holds."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside the ``with`` block and are still alive.

    Args:
        kind_of: what kind of tensor a new one is, for those who want to know of which kinds the peak was made.
    """

    def __init__(self, kind_of: Callable[[Tensor], str] = lambda tensor: "") -> None:
        super().__init__()
        self.kind_of = kind_of
        self.now: int = 0
        self.peak: int = 0
        self.kinds: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()  # the kinds at that moment
        self._sizes: dict[int, tuple[str, int]] = {}  # kinds and sizes of storages, by their address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._see((args, kwargs), counts=False)  # what is new here was made outside, such as the bare model's weights
        result = func(*args, **(kwargs or {}))
        self._see(result, counts=True)
        return result

    def begin_again(self) -> None:
        """Forget the peak, but not what is alive."""
        self.peak, self.at_peak = self.now, self.kinds.copy()

    def _see(self, parts: Any, counts: bool) -> None:
        for part in tree_leaves(parts):
            if not isinstance(part, Tensor) or part.untyped_storage()._cdata in self._sizes:
                continue
            storage = part.untyped_storage()
            kind, size = self.kind_of(part), storage.nbytes() * counts
            self._sizes[storage._cdata] = kind, size
            self.now += size
            self.kinds[kind] += size
            if self.now > self.peak:
                self.begin_again()
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, address: int) -> None:
        kind, size = self._sizes.pop(address)
        self.now -= size
        self.kinds[kind] -= size


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of all of them together; what several share counts once."""
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())
