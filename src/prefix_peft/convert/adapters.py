"""AdapterHub's ``adapters``: one module for each kind of attention, an MLP or flat, beside a text that stays put.

Tensors are called ``...prefix_tunings.NAME.LOCATION.wte.weight`` and ``....control_trans.0.weight``, or
``....control_trans`` where it is flat; LOCATION is self_prefix, encoder_prefix or cross_prefix.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import CONFIG_NAME
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from ..anatomy.sites import Site
from ..anatomy.trial import is_encoder_decoder
from ..one_pass import KeysValues
from .attaching import apart, base_of, content_of
from .content import Content, common_shape, from_rows, own_role, sites_of, to_rows
from .folding import fold
from .formats import Format, Source, register_format

WHERE = re.compile(r"(?P<module>.*prefix_tunings\.[^.]+\.(?P<location>\w+))\.(wte\.weight|control_trans(\.\d+\.\w+)?)")
LOCATIONS = ("self_prefix", "encoder_prefix", "cross_prefix")
SETTINGS: dict[str, Any] = {
    "architecture": "prefix_tuning", "bottleneck_size": 512, "non_linearity": "tanh", "dropout": 0.0, "leave_out": [],
    "use_gating": False, "shared_gating": True,
}  # fmt: skip


@register_format("adapters")
class Adapters(Format):
    """``adapter_config.json`` and ``adapter.safetensors``."""

    is_cache = False

    def recognises(self, source: Source) -> bool:
        """By the names of its tensors."""
        return any(".prefix_tunings." in name for name in source.names)

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """All locations, their MLPs folded."""
        settings = Source(source.file, source.setting("config", dict, {}), source.names)
        found = {m["location"]: m["module"] for name in sorted(source.names) if (m := WHERE.fullmatch(name))}
        strange = [name for name in sorted(source.names) if not WHERE.fullmatch(name)]
        if strange or settings.config.get("use_gating"):
            raise ValueError(
                f"{source.file} holds {strange or 'gates'}: gates that the text opens (use_gating), or other methods "
                "beside the prefix, which a prefix alone cannot do."
            )
        parts: KeysValues = {}
        for location, module in found.items():
            sites = _sites(model, location, settings)
            parts |= from_rows(_rows(source, settings, module, sites), sites, f"{module} in {source.file}")
        return Content(parts, behind=False)

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """The flat form, named "default"."""
        base, what = base_of(model), "an adapter of AdapterHub"
        content = apart(base, content_of(model, what))
        tensors = {}
        for location in LOCATIONS[: 3 if is_encoder_decoder(base) else 1]:
            sites = [site for site in sites_of(base, _role(base, location)) if site.name in content.parts]
            if not sites and location != "self_prefix":
                continue
            if len(sites) != len(sites_of(base, _role(base, location))):
                raise ValueError(f"{what} has a prefix at every layer ({location}), and this one has {len(sites)}.")
            module = f"{base.base_model_prefix}.prefix_tuning.prefix_tunings.default.{location}"
            tensors[f"{module}.control_trans"] = to_rows(content.parts, sites, what).flatten()
        save_file(tensors, directory / "adapter.safetensors")
        (directory / CONFIG_NAME).write_text(_config(base, content.length, tensors), encoding="utf-8")


def _role(model: PreTrainedModel, location: str) -> str:
    if location not in LOCATIONS:
        raise ValueError(f"the location {location!r} is unknown; known are {list(LOCATIONS)}.")
    if is_encoder_decoder(model):
        return {"self_prefix": "decoder", "encoder_prefix": "encoder", "cross_prefix": "cross"}[location]
    if location == "cross_prefix":
        raise ValueError(f"{location} is for an encoder-decoder, which {type(model).__name__} is not.")
    return own_role(model)


def _sites(model: PreTrainedModel, location: str, settings: Source) -> list[Site]:
    """Those layers that are not left out."""
    sites, left_out = sites_of(model, _role(model, location)), settings.setting("leave_out", list, [])
    if left_out and is_encoder_decoder(model):
        raise ValueError(f"leave_out={left_out} counts encoder and decoder layers together; it is not converted.")
    return [site for layer, site in enumerate(sites) if layer not in left_out]


def _rows(source: Source, settings: Source, module: str, sites: list[Site]) -> Tensor:
    if f"{module}.control_trans" in source.names:
        flat = source.tensors(f"{module}.control_trans")[f"{module}.control_trans"]
        heads, dim = common_shape(sites, module)
        width = 2 * len(sites) * heads * dim
        return flat.reshape(-1, width) if width and flat.numel() % width == 0 else flat
    activation: str = settings.setting("non_linearity", str, "tanh").lower()
    if "version" not in source.config:  # files of old, whose names meant others
        activation = {"gelu": "gelu_new", "gelu_orig": "gelu"}.get(activation, activation)
    activation = "leaky_relu" if activation == "leakyrelu" else activation
    if activation not in ACT2FN:
        raise ValueError(f"the MLP in {source.file} has the non_linearity {activation!r}, which is unknown.")
    return fold(source, f"{module}.wte", f"{module}.control_trans", ACT2FN[activation])


def _config(model: PreTrainedModel, length: int, tensors: dict[str, Tensor]) -> str:
    locations = {name.split(".")[-2] for name in tensors}
    config = SETTINGS | {"flat": True, "prefix_length": length} | {loc: loc in locations for loc in LOCATIONS[1:]}
    whole = {
        "config": config, "hidden_size": getattr(model.config, "hidden_size", None), "name": "default",
        "model_class": type(model).__name__, "model_name": model.name_or_path, "model_type": model.config.model_type,
        "version": f"prefix-peft.{version('prefix-peft')}",
    }  # fmt: skip
    return json.dumps(whole, indent=2, sort_keys=True)
