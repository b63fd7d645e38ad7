"""A trained prefix as its files have it, without any model: keys, values, and what is known of its training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils import load_peft_weights
from torch import Tensor

from ..config import PrefixConfig
from ..training.results import LOG_FILE
from ..untrusted import check_inside, read_json, read_shapes

NAME = re.compile(r"base_model\.model\.(?P<site>.+)\.prefix_kv\.prefix_kv_encoder\.p_(?P<part>key|value|gate)")


@dataclass(frozen=True)
class SitePrefix:
    """What one site has, in float32."""

    name: str
    key: Tensor  # (G, P, D_k)
    value: Tensor  # (G, P, D_v)
    gate: Tensor | None  # (G,) or (G, P)

    def norms(self) -> tuple[Tensor, Tensor]:
        """Of each virtual token's key and value (P,), all heads together."""
        return self.key.norm(dim=(0, 2)), self.value.norm(dim=(0, 2))

    def numbers(self) -> int:
        """How many there are."""
        return sum(part.numel() for part in (self.key, self.value, self.gate) if part is not None)


@dataclass(frozen=True)
class Release:
    """A directory or repository that holds a trained prefix."""

    source: str
    config: PrefixConfig
    sites: list[SitePrefix]  # in the order of the file, layers by their numbers
    dtype: str
    bytes: int
    log: dict[str, Any]  # steps and losses, where a training left them

    @property
    def facts(self) -> dict[str, str]:
        """What it is and how it came to be, for a table; what is unknown is left out."""
        config, count = self.config, sum(site.numbers() for site in self.sites)
        facts = {
            "prefix": self.source,
            "base model": config.base_model_name_or_path,
            "virtual tokens": ", ".join(map(str, sorted({site.key.shape[1] for site in self.sites}))),
            "sites": str(len(self.sites)),
            "numbers": f"{count:,} in {self.dtype}, {self.bytes / 2**20:.2f} MiB",
            "gate": {False: "", True: "one a head", "token": "one a virtual token"}[config.gate],
            "frozen virtual tokens": str(config.num_frozen_tokens or ""),
            "positions": {"keep": "", "shift": "the text begins behind the prefix"}[config.position_mode],
            "trained with": ", ".join(f"{key}={value!r}" for key, value in (config.trained_with or {}).items()),
        }
        return {key: value for key, value in (facts | _training(self.log)).items() if value}


def read_release(adapter: str) -> Release:
    """Read a prefix from the directory or the Hub repository ``adapter``.

    Raises:
        ValueError: it is no prefix of this library, is broken, or is a pickle.
    """
    config = PeftConfig.from_pretrained(adapter)
    if not isinstance(config, PrefixConfig):
        raise ValueError(f"{adapter} holds {config.peft_type} and no prefix of keys and values; name one that does.")
    if read_shapes(adapter) is None:
        raise ValueError(f"{adapter} holds no adapter_model.safetensors to look into.")
    tensors = load_peft_weights(adapter, device="cpu")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := NAME.fullmatch(name):
            parts.setdefault(match["site"], {})[match["part"]] = tensor
    if not parts or any(not {"key", "value"} <= own.keys() for own in parts.values()):
        raise ValueError(f"{adapter} has no key and value for each of its sites; fetch or save it again.")
    sites = [_site(name, parts[name]) for name in sorted(parts, key=in_layer_order)]
    dtype = str(next(iter(parts.values()))["key"].dtype).removeprefix("torch.")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return Release(adapter, config, sites, dtype, size, _log(adapter))


def in_layer_order(name: str) -> list[tuple[bool, int, str]]:
    """A key for sorting module names: layer 2 before layer 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]


def _site(name: str, parts: dict[str, Tensor]) -> SitePrefix:
    gate = parts.get("gate")
    return SitePrefix(name, parts["key"].float(), parts["value"].float(), None if gate is None else gate.float())


def _log(adapter: str) -> dict[str, Any]:
    path = Path(adapter, LOG_FILE)
    return read_json(check_inside(adapter, path)) if path.is_file() else {}


def _training(log: dict[str, Any]) -> dict[str, str]:
    """Steps, time and losses, as far as a log of somebody else's has them."""
    step, seconds, entries = log.get("step"), log.get("seconds"), log.get("log")
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    facts = {"training": f"{step:,} steps" if isinstance(step, int) else ""}
    if facts["training"] and isinstance(seconds, (int, float)):
        facts["training"] += f", {seconds:.0f} s"
    for key, name in (("loss", "training loss"), ("validation_loss", "validation loss")):
        losses = [entry[key] for entry in entries if isinstance(entry.get(key), (int, float))]
        facts[name] = f"{losses[0]:.3f} at first, {losses[-1]:.3f} at last" if losses else ""
    return facts
