"""P in parts: the virtual tokens that stay what they were when the prefix was filled, and those that train.

Attention sinks (``num_frozen_tokens``): many models send the attention that they have no use for to the first token of
a text, and suffer when it changes.

Units (``scale_parameter``): in a Llama the values of such a token are a fifth to a third of its neighbours', and those
of the last layers three times those of the first. A step of AdamW is as large for all of them. So each virtual token of
each site trains in units of its own size, and a step moves it by a share of that; as Adafactor's steps are relative to
a parameter (Shazeer & Stern 2018, section 8). Units are powers of two, by which nothing is rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .anatomy.sites import Site
from .config import PrefixConfig
from .encoders import FlatEncoder
from .gathering import is_sharded
from .layer import PrefixLayer

# What one unit is, in root mean squares of a token at its start. Steps that suit values are too large for keys.
UNITS = {"p_key": 1 / 8, "p_value": 1.0}


class PartedEncoder(FlatEncoder):
    """P in two parts: buffers (G, k, D) that nothing trains, and parameters (G, P - k, D) behind them.

    The parameters are in units of ``unit_p_key`` and ``unit_p_value`` (1, P - k, 1), buffers too, where the config asks
    for it. To all who save or load it is a `FlatEncoder` (with units beside it): its ``p_key`` and ``p_value`` are the
    whole of P, also when set.
    """

    def __init__(self, site: Site, length: int, config: PrefixConfig) -> None:
        vars(self)["frozen"] = config.num_frozen_tokens  # before P is made, and torch allows for no other way then
        vars(self)["scaled"] = config.scale_parameter
        super().__init__(site, length, gate=config.gate)

    def __getattr__(self, name: str) -> Any:
        return _whole(self._parts_of(name)) if name in UNITS else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in UNITS:
            return super().__setattr__(name, value)
        parts = self._parts_from(name, value.detach())
        trained = nn.Parameter(parts.pop("trained"), requires_grad=value.requires_grad)
        self.register_parameter(f"trained_{name}", trained)
        for kind, part in parts.items():  # PEFT may put parameters elsewhere than they were made
            self.register_buffer(f"{kind}_{name}", part.to(self.get_parameter(f"trained_{name}").device))

    @torch.no_grad()
    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Become these keys (G, P, D_k) and values (G, P, D_v)."""
        for name, whole in zip(UNITS, (keys, values), strict=True):
            held = self._parts_of(name)
            for kind, part in self._parts_from(name, whole).items():
                held[kind].copy_(part)

    def _parts_of(self, name: str) -> dict[str, Tensor]:
        """What is held of P's keys or values, by kind."""
        held = self._buffers | self._parameters
        return {kind: held[f"{kind}_{name}"] for kind in _kinds(self.scaled)}

    def _parts_from(self, name: str, whole: Tensor, unit: Tensor | None = None) -> dict[str, Tensor]:
        """The same for ``whole`` (G, P, D), each of its own memory; in units of its own where none is given."""
        frozen, trained = whole[:, : self.frozen].clone(), whole[:, self.frozen :].clone()
        if not self.scaled:
            return {"frozen": frozen, "trained": trained}
        if unit is None:
            unit = _unit(UNITS[name] * trained.square().mean(dim=(0, 2), keepdim=True).sqrt())
        return {"frozen": frozen, "trained": trained / unit, "unit": unit}

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not any(map(is_sharded, self.parameters(recurse=False))):  # else `folded` puts them together
            join_parts(destination, prefix)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in UNITS:
            whole = state_dict.pop(f"{prefix}{name}", None)
            if whole is not None:
                parts = self._parts_from(name, whole, state_dict.get(f"{prefix}unit_{name}"))
                state_dict |= {f"{prefix}{kind}_{name}": part for kind, part in parts.items()}
        super()._load_from_state_dict(state_dict, prefix, *args)


def join_parts(state_dict: dict[str, Tensor], prefix: str = "") -> None:
    """Let the parts of P in ``state_dict`` be the whole that a `FlatEncoder` has. Units stay."""
    for name in UNITS:
        if f"{prefix}trained_{name}" in state_dict:
            parts = {kind: state_dict.pop(f"{prefix}{kind}_{name}") for kind in _kinds(scaled=False)}
            unit = state_dict.get(f"{prefix}unit_{name}")
            state_dict[f"{prefix}{name}"] = _whole(parts if unit is None else parts | {"unit": unit})


def is_unit(key: str) -> bool:
    """Whether a tensor of this name says in which units others are."""
    return key.rpartition(".")[2].startswith("unit_")


@torch.no_grad()
def take_parts_of_twin(layer: PrefixLayer, adapter_name: str) -> None:
    """Let a prefix made by the very config of another have its frozen tokens, and train in its units.

    So TRL's DPOTrainer makes the reference for a prefix that is trained on, and copies nothing but parameters.
    """
    encoder, config = layer.encoder(adapter_name), layer.config[adapter_name]
    twins = [name for name, other in layer.config.items() if other is config and name != adapter_name]
    if twins and isinstance(encoder, PartedEncoder):
        theirs = dict(layer.encoder(twins[0]).named_buffers())
        for name, buffer in encoder.named_buffers():
            buffer.copy_(theirs[name])


def _kinds(scaled: bool) -> tuple[str, ...]:
    return ("frozen", "trained", "unit") if scaled else ("frozen", "trained")


def _whole(parts: dict[str, Tensor]) -> Tensor:
    """P (G, P, D) of its parts."""
    trained = parts["trained"] * parts["unit"] if "unit" in parts else parts["trained"]
    return torch.cat([parts["frozen"], trained], dim=1) if parts["frozen"].shape[1] else trained


def _unit(sizes: Tensor) -> Tensor:
    """The power of two next to each size; 1 where there is nothing to go by."""
    return torch.where(sizes > 0, sizes.log2().round().exp2(), 1.0)
