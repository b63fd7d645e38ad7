"""Attention sinks: the first virtual tokens of a prefix stay what they were when it was filled, and the rest trains.

Many models send the attention that they have no use for to the first token of a text, and suffer when it changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .anatomy.sites import Site
from .encoders import FlatEncoder
from .gathering import is_sharded
from .layer import PrefixLayer

WHOLE = ("p_key", "p_value")


class SinkEncoder(FlatEncoder):
    """P in two parts: buffers (G, k, D) that nothing trains, and parameters (G, P - k, D) behind them.

    To all who save or load it is a `FlatEncoder`: its ``p_key`` and ``p_value`` are the whole of P, also when set.
    """

    def __init__(self, site: Site, length: int, frozen: int, *, gate: bool | str) -> None:
        vars(self)["frozen"] = frozen  # before P is made, and torch allows for no other way then
        super().__init__(site, length, gate=gate)

    def __getattr__(self, name: str) -> Any:
        if name in WHOLE:
            return torch.cat([self.get_buffer(f"frozen_{name}"), self.get_parameter(f"trained_{name}")], dim=1)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in WHOLE:
            return super().__setattr__(name, value)
        frozen, trained = _parts(value.detach(), self.frozen)
        self.register_parameter(f"trained_{name}", nn.Parameter(trained, requires_grad=value.requires_grad))
        device = self.get_parameter(f"trained_{name}").device  # PEFT may put parameters elsewhere than they were made
        self.register_buffer(f"frozen_{name}", frozen.to(device))

    @torch.no_grad()
    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Become these keys (G, P, D_k) and values (G, P, D_v)."""
        for name, whole in zip(WHOLE, (keys, values), strict=True):
            frozen, trained = _parts(whole, self.frozen)
            self.get_buffer(f"frozen_{name}").copy_(frozen)
            self.get_parameter(f"trained_{name}").copy_(trained)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not any(map(is_sharded, self.parameters(recurse=False))):  # else `folded` puts them together
            join_parts(destination, prefix)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in WHOLE:
            whole = state_dict.pop(f"{prefix}{name}", None)
            if whole is not None:
                frozen, trained = _parts(whole, self.frozen)
                state_dict |= {f"{prefix}frozen_{name}": frozen, f"{prefix}trained_{name}": trained}
        super()._load_from_state_dict(state_dict, prefix, *args)


def join_parts(state_dict: dict[str, Tensor], prefix: str = "") -> None:
    """Let frozen and trained parts in ``state_dict`` be the whole that a `FlatEncoder` has."""
    for name in WHOLE:
        if f"{prefix}frozen_{name}" in state_dict:
            parts = [state_dict.pop(f"{prefix}{part}_{name}") for part in ("frozen", "trained")]
            state_dict[f"{prefix}{name}"] = torch.cat(parts, dim=1)


@torch.no_grad()
def take_frozen_of_twin(layer: PrefixLayer, adapter_name: str) -> None:
    """Let a prefix made by the very config of another have its frozen tokens.

    So TRL's DPOTrainer makes the reference for a prefix that is trained on, and copies nothing but parameters.
    """
    encoder, config = layer.encoder(adapter_name), layer.config[adapter_name]
    twins = [name for name, other in layer.config.items() if other is config and name != adapter_name]
    if twins and isinstance(encoder, SinkEncoder):
        for name in WHOLE:
            encoder.get_buffer(f"frozen_{name}").copy_(layer.encoder(twins[0]).get_buffer(f"frozen_{name}"))


def _parts(whole: Tensor, frozen: int) -> tuple[Tensor, Tensor]:
    """(G, k, D) and (G, P - k, D), each of its own memory."""
    return whole[:, :frozen].clone(), whole[:, frozen:].clone()
