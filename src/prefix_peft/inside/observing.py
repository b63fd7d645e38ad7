"""Watch a model with prefixes attend: how much of each query's attention went to each virtual token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from ..anatomy.sites import Site
from ..hook import Call, calling, current_call
from ..layer import PrefixLayer, prefix_layers


class Observed:
    """What was seen, by site: one tensor (B, H, T, P) a forward pass, the prefixes of several adapters side by side."""

    def __init__(self, layers: list[PrefixLayer]) -> None:
        self.calls: dict[str, list[Tensor]] = {}
        self._sites: dict[nn.Module, Site] = {layer.get_base_layer(): layer.site for layer in layers}
        self._turns: dict[str, int] = {}

    @property
    def sites(self) -> list[Site]:
        """Those at which a prefix took part, in the order of the model's modules."""
        return [site for site in self._sites.values() if site.name in self.calls]

    def weights(self, name: str) -> Tensor:
        """All that one site saw, (B, H, T, P); T counts the queries of all forward passes, as of a decoding.

        Raises:
            KeyError: no prefix took part at a site of this name.
        """
        if name not in self.calls:
            raise KeyError(f"no prefix took part at {name!r}; there was one at {list(self.calls)}.")
        return torch.cat(self.calls[name], dim=2)

    def note(self, module: nn.Module, weights: Tensor) -> None:
        """One attention. Further turns of a site ask the same of the same keys, and are left out."""
        site = self._sites.get(module)
        if site is None:
            return
        turn = self._turns[site.name] = self._turns.get(site.name, -1) + 1
        if turn % site.turns == 0:
            self.calls.setdefault(site.name, []).append(weights)


@contextmanager
def observe(model: nn.Module) -> Iterator[Observed]:
    """Note every attention of ``model`` to its prefixes inside the ``with`` block, exactly, and change nothing.

    It costs a second attention and memory for B x H x T x P numbers a site inside, and nothing outside of the block.
    What is seen is of this thread alone. Dropout is left out.

    Raises:
        ValueError: a model without any prefix.
        NotImplementedError: inside, of a module that attends by hand in blocks of queries.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = prefix_layers(base)
    if not layers:
        raise ValueError(f"{type(base).__name__} carries no prefix; wrap it first: prefix_peft.wrap(model).")
    observed = Observed(layers)
    with calling(replace(current_call() or Call(), observer=observed.note)):
        yield observed
