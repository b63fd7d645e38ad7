"""PrefixLayer: one attention module's prefixes, by adapter name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .anatomy.sites import Site
from .attention.terms import Prefix, PrefixRows, gate_of
from .children import put, take
from .config import PrefixConfig
from .encoders import Encoder

BASE = "__base__"  # PEFT's name for "no adapter" in adapter_names


class PrefixLayer(nn.Module, BaseTunerLayer):
    """A child of an attention module, which stays what it is; it holds the prefixes and hands out the one in use."""

    adapter_layer_names: tuple[str, ...] = ("prefix_kv_encoder",)
    other_param_names: tuple[str, ...] = ("config",)

    def __init__(self, attention: nn.Module, site: Site) -> None:
        super().__init__()
        self.site = site
        self.prefix_kv_encoder: nn.ModuleDict = nn.ModuleDict()
        self.config: dict[str, PrefixConfig] = {}
        self._disable_adapters = False  # not only in the class: compiled code would be compiled again when it appears
        self.last_step: Any = None  # of decoding, see `step`
        self._attention = (attention,)  # a tuple, so that the parent is not registered as a child

    def get_base_layer(self) -> nn.Module:
        """The attention module to which this layer belongs."""
        return self._attention[0]

    def add(self, adapter_name: str, encoder: Encoder, config: PrefixConfig) -> None:
        """Hold one more prefix, on the device of the attention module."""
        device, _ = self._get_base_layer_device_and_dtype(self.get_base_layer())
        places = {parameter.device for parameter in encoder.parameters()}
        if device is not None and not places & {device, torch.device("meta")}:
            encoder.to(device)
        put(self.prefix_kv_encoder, adapter_name, encoder)
        self.config = self.config | {adapter_name: config}  # a new one, as other threads may be reading the old

    def remove(self, adapter_name: str) -> None:
        """Hold it no longer."""
        self.config = {name: config for name, config in self.config.items() if name != adapter_name}
        take(self.prefix_kv_encoder, adapter_name)
        self.last_step = None  # which may hold on to its memory

    def delete_adapter(self, adapter_name: str) -> None:
        """As PEFT does it, which also chooses another active adapter."""
        self.remove(adapter_name)
        super().delete_adapter(adapter_name)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, None]:
        """PEFT asks where to put the prefix. It follows the attention's device, but stays in float32."""
        devices = (p.device for name, p in base_layer.named_parameters() if "prefix_kv" not in name)
        return next((device for device in devices if device.type != "meta"), None), None

    def forward(
        self, batch_size: int, rows: Sequence[str | None] | None = None, lengths: Sequence[int] | None = None
    ) -> Prefix | PrefixRows | None:
        """The prefix of this call: the active adapters' one after the other, or that of each row; None for none.

        Args:
            batch_size: B of the call; a multiple of ``len(rows)``, as beam search has several rows to each input.
            rows: the adapter of each row, where they differ.
            lengths: the tokens of each row, where all rows lie side by side in one.
        """
        if rows is None:
            return self._concatenated(self.active_adapters)
        if lengths is not None:
            return self._side_by_side(rows, lengths)
        return self._per_row(batch_size, rows)

    def _concatenated(self, names: Sequence[str]) -> Prefix | None:
        names = [name for name in names if name in self.prefix_kv_encoder]
        if not names:
            return None
        parts = [self._one(name) for name in names]
        key = torch.cat([part.key for part in parts], dim=2) if len(parts) > 1 else parts[0].key
        value = torch.cat([part.value for part in parts], dim=2) if len(parts) > 1 else parts[0].value
        if all(part.gate is None for part in parts):
            return Prefix(key, value)
        return Prefix(key, value, torch.cat([gate_of(part) for part in parts], dim=2))

    def _one(self, name: str) -> Prefix:
        encoder = self.encoder(name)
        p_key, p_value = encoder()
        rate = self.config[name].prefix_dropout
        if rate and self.training:
            p_key, p_value = F.dropout(p_key, rate), F.dropout(p_value, rate)
        heads, length, _ = p_key.shape
        gate = None if encoder.p_gate is None else encoder.p_gate.view(1, heads, -1).expand(-1, -1, length)
        return Prefix(p_key[None], p_value[None], gate)

    def _per_row(self, batch_size: int, rows: Sequence[str | None]) -> PrefixRows | None:
        if batch_size % len(rows):
            raise ValueError(f"adapter_names has {len(rows)} names for a batch of {batch_size} rows.")
        names = sorted({name for name in rows if name and name in self.prefix_kv_encoder})
        if not names:
            return None
        choice = [names.index(name) if name in names else -1 for name in rows for _ in range(batch_size // len(rows))]
        return PrefixRows([self._one(name) for name in names], choice)

    def _side_by_side(self, rows: Sequence[str | None], lengths: Sequence[int]) -> Prefix | None:
        """The prefixes of all rows, one after the other; each token sees that of its own row."""
        names = list(dict.fromkeys(rows))
        found = [self._concatenated(self.active_adapters if name is None else [name]) for name in names]
        parts = {name: part for name, part in zip(names, found, strict=True) if part is not None}
        if not parts:
            return None
        key, value = (torch.cat([getattr(part, field) for part in parts.values()], 2) for field in ("key", "value"))
        gated = any(part.gate is not None for part in parts.values())
        gate = torch.cat([gate_of(part) for part in parts.values()], dim=2) if gated else None
        tokens = _repeated([names.index(name) for name in rows], lengths, key.device)
        columns = _repeated([names.index(name) for name in parts], [p.key.shape[2] for p in parts.values()], key.device)
        return Prefix(key, value, gate, (tokens[:, None] == columns)[None])

    def attention_form(self) -> str:
        """The form that the prefixes here ask for; 'joined', which is always possible, where they disagree."""
        form = "auto"
        for config in self.config.values():
            if config.attention_form not in ("auto", form):
                form = config.attention_form if form == "auto" else "joined"
        return form

    def encoder(self, name: str) -> Encoder:
        """What holds this adapter's parameters at this site."""
        return cast("Encoder", self.prefix_kv_encoder[name])

    def length_of(self, name: str) -> int:
        """P of this adapter at this site."""
        return self.config[name].length_at(self.site.name)

    def shifts(self) -> bool:
        """Whether any prefix here lets the text start later."""
        return any(config.position_mode == "shift" for config in self.config.values())

    def shift(
        self, batch_size: int, rows: Sequence[str | None] | None, lengths: Sequence[int] | None = None
    ) -> int | Tensor:
        """By how many positions the text starts later: for the batch, each row (B, 1), or each token (1, T)."""
        if self.disable_adapters:
            return 0
        if rows is None:
            return self._shift(None)
        shifts = [self._shift(name) for name in rows]
        if len(set(shifts)) == 1:
            return shifts[0]
        if lengths is not None:
            return _repeated(shifts, lengths)[None]
        return torch.tensor(shifts).repeat_interleave(batch_size // len(rows))[:, None]

    def _shift(self, name: str | None) -> int:
        configs = [self.config.get(name) for name in (self.active_adapters if name is None else [name])]
        return sum(config.num_virtual_tokens for config in configs if config and config.position_mode == "shift")

    def extra_repr(self) -> str:
        return f"active_adapters={self.active_adapters}"


def prefix_layers(model: nn.Module) -> list[PrefixLayer]:
    """All prefix layers of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, PrefixLayer)]


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse ``adapter_names`` that no prefix of ``model`` has."""
    known = [*dict.fromkeys(name for layer in prefix_layers(model) for name in layer.config), BASE]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"adapter_names asks for {unknown}, which this model does not have; choose from {known}.")


def _repeated(numbers: Sequence[int], times: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Each number as often as its turn says."""
    return torch.tensor(numbers, device=device).repeat_interleave(torch.tensor(times, device=device))
