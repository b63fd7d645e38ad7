"""Several prefixes as one: their virtual tokens one after the other, at every site."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from .config import PrefixConfig
from .encoders import Encoder, FlatEncoder
from .layer import PrefixLayer

EVERYWHERE = {"exclude_modules": None, "sites": None, "layers_to_transform": None, "layers_pattern": None}


def check_request(
    known: Sequence[str],
    adapters: Sequence[str],
    weights: Sequence[float] | None,
    adapter_name: str | None,
    combination_type: str,
) -> str:
    """Returns the new adapter's name.

    Raises:
        ValueError: what `PrefixModel.add_weighted_adapter` refuses.
    """
    if combination_type != "cat":
        raise ValueError(
            f"combination_type={combination_type!r} would mix virtual token j of one prefix with token j of another, "
            "which have nothing to do with each other. Only 'cat' is possible: one after the other."
        )
    unknown = [name for name in adapters if name not in known]
    if unknown or not adapters:
        raise ValueError(f"adapters={adapters} must name some of the adapters of this model, {known}.")
    if weights is not None and list(weights) != [1] * len(adapters):
        raise ValueError(
            f"weights={weights} must be 1 for each of the {len(adapters)} adapters, or left out: attention gives each "
            "prefix its weight anew for every query. For one that counts less, train it with gate=True."
        )
    if adapter_name is None or adapter_name in known:
        raise ValueError(f"adapter_name={adapter_name!r} must be a new name; the model has {known} already.")
    return adapter_name


def joint_config(layers: Sequence[PrefixLayer], adapters: Sequence[str]) -> PrefixConfig:
    """The config of the adapters' prefixes one after the other.

    Raises:
        ValueError: the text would have to begin at several places, or an adapter trains modules of the model as well.
    """
    lengths = {layer.site.name: length for layer in layers if (length := _length(layer, adapters))}
    configs = [next(layer.config[name] for layer in layers if name in layer.config) for name in adapters]
    _check_fit(layers, adapters, configs)
    common = max(lengths.values(), key=list(lengths.values()).count)
    first = {layer.site.name for layer in layers if adapters[0] in layer.config}
    changes = {} if first == lengths.keys() else {"target_modules": list(lengths), **EVERYWHERE}
    config = replace(
        configs[0].released(),
        num_virtual_tokens=common,
        num_virtual_tokens_pattern={f"^{re.escape(name)}$": n for name, n in lengths.items() if n != common},
        num_frozen_tokens=sum(config.num_frozen_tokens for config in configs),
        gate="token" if any(config.gate for config in configs) else False,
        trained_with={"combination_type": "cat", "adapters": list(adapters)},
        **changes,
    )
    config.filled_by_caller = True
    return config


def _length(layer: PrefixLayer, adapters: Sequence[str]) -> int:
    return sum(layer.length_of(name) for name in adapters if name in layer.config)


def _check_fit(layers: Sequence[PrefixLayer], adapters: Sequence[str], configs: Sequence[PrefixConfig]) -> None:
    saving = [name for name, config in zip(adapters, configs, strict=True) if config.modules_to_save]
    if saving:
        raise ValueError(f"{saving} train modules of the model as well (modules_to_save), which cannot be joined.")
    modes = {name: config.position_mode for name, config in zip(adapters, configs, strict=True)}
    frozen = {name: config.num_frozen_tokens for name, config in zip(adapters, configs, strict=True)}
    apart = any(0 < sum(name in layer.config for name in adapters) < len(adapters) for layer in layers)
    if "shift" in modes.values() and (len(set(modes.values())) > 1 or apart):
        raise ValueError(
            f"the text behind a prefix begins at one place, but the position modes are {modes}"
            + (", and the prefixes are not all at the same sites" if apart else "")
            + f". Keep them side by side: set_adapter({list(adapters)})."
        )
    if any(frozen.values()) and apart:
        raise ValueError(
            f"every site has the same number of frozen tokens, but the prefixes have {frozen} of them "
            "(num_frozen_tokens) and are not all at the same sites. "
            f"Keep them side by side: set_adapter({list(adapters)})."
        )


@torch.no_grad()
def concatenate(layers: Sequence[PrefixLayer], adapters: Sequence[str], adapter_name: str) -> None:
    """Let ``adapter_name`` hold the adapters' prefixes, an MLP's folded: all that is frozen, then all the rest.

    Attention knows of no order among virtual tokens.
    """
    for layer in layers:
        names = [name for name in adapters if name in layer.config]
        if not names:
            continue
        parts, frozen = (
            [layer.encoder(name) for name in names],
            [layer.config[name].num_frozen_tokens for name in names],
        )
        keys, values = zip(*(part() for part in parts), strict=True)
        whole = cast("FlatEncoder", layer.encoder(adapter_name))
        whole.fill(_joined(keys, frozen), _joined(values, frozen))
        if whole.p_gate is not None:
            gates = [_gate(part, key.shape[1]) for part, key in zip(parts, keys, strict=True)]
            whole.p_gate.copy_(_joined(gates, frozen))


def _joined(parts: Sequence[Tensor], frozen: Sequence[int]) -> Tensor:
    """(G, P, ...) of the first so many of each part, then the rest of each."""
    pairs = list(zip(parts, frozen, strict=True))
    return torch.cat([*(part[:, :k] for part, k in pairs), *(part[:, k:] for part, k in pairs)], dim=1)


def _gate(part: Encoder, length: int) -> Tensor:
    """(G, P), wide open where there is none."""
    gate = torch.ones_like(part()[0][:, :1, 0]) if part.p_gate is None else part.p_gate
    return gate.view(len(gate), -1).expand(-1, length)
