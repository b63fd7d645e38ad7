"""The release file: P and nothing else, read only when it fits.

``adapter_model.safetensors`` holds, for each site, ``p_key`` (G, P, D_k) and ``p_value`` (G, P, D_v), and ``p_gate``
(G,) or (G, P) where the prefix has a gate. An MLP is folded into P before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.utils.other import EMBEDDING_LAYER_NAMES
from torch import Tensor, nn

from .anatomy.sites import Site
from .config import PrefixConfig, Shapes
from .encoders import MLPEncoder, gate_shape
from .gathering import full_tensors
from .layer import PrefixLayer, prefix_layers
from .parts import is_unit, join_parts

OTHER_WEIGHTS = 0.5  # relative distance of the fingerprints; unrelated models are at about 1.4


def folded(
    model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """P of every site in ``dtype``, from ``state_dict``; parts that several processes hold are put together."""
    tensors: dict[str, Tensor] = {}
    trunk: dict[str, Tensor] = {}
    for path, encoder in encoders_of(model, adapter_name):
        own = {key.removeprefix(f"{path}."): value for key, value in state_dict.items() if key.startswith(f"{path}.")}
        own = full_tensors(encoder, own)
        join_parts(own)
        if isinstance(encoder, MLPEncoder):
            trunk = trunk or {key.removeprefix("trunk."): own[key] for key in own if key.startswith("trunk.")}
            # not the module's own forward, which gathers its parameters anew where they are sharded
            hidden = torch.tanh(F.linear(trunk["embedding"], trunk["linear.weight"], trunk["linear.bias"]))
            own["p_key"], own["p_value"] = encoder.split(hidden @ own["head.weight"].T + own["head.bias"])
        names = [name for name in ("p_key", "p_value", "p_gate") if name in own]
        tensors |= {f"{path}.{name}": own[name].detach().to(dtype).contiguous() for name in names}
    return tensors


def encoders_of(model: nn.Module, adapter_name: str) -> list[tuple[str, nn.Module]]:
    """The adapter's encoders and their names in ``model``, in the order of its modules."""
    return [
        (f"{name}.prefix_kv_encoder.{adapter_name}", layer.prefix_kv_encoder[adapter_name])
        for name, layer in model.named_modules()
        if isinstance(layer, PrefixLayer) and adapter_name in layer.prefix_kv_encoder
    ]


def check_fits(config: PrefixConfig, sites: dict[str, Site], fingerprint: list[float], model: nn.Module) -> None:
    """Refuse, before anything changes, a file that is not for this model and config.

    Raises:
        ValueError: missing, extra or wrongly shaped tensors, each named with the shape found and the shape needed; or a
            base model of the same shapes but other weights.
    """
    found = config.file_shapes
    if found is None:
        return
    if config.prefix_projection:
        raise ValueError(
            "the config in the file asks for prefix_projection=True, but a release holds the folded prefix and no MLP. "
            "Save it with save_pretrained, or continue from a training checkpoint."
        )
    needed = released_shapes(sites.values(), config) | _saved_besides(model, found, config)
    _compare(found, needed, model)
    _check_base(config, fingerprint, type(model).__name__)
    config.file_shapes = None  # checked once; the same config may serve another model that is trained anew


def _check_base(config: PrefixConfig, fingerprint: list[float], model_name: str) -> None:
    if config.base_fingerprint is None:
        return
    theirs, ours = torch.tensor(config.base_fingerprint), torch.tensor(fingerprint)
    if theirs.shape == ours.shape:
        difference = float((theirs - ours).norm() / theirs.norm())
        if not difference > OTHER_WEIGHTS:  # quantisation and other precisions stay far below
            return
    else:
        difference = float("inf")
    raise ValueError(
        f"the prefix in the file was trained on another base model than this {model_name}: the keys of one and the "
        f"same token differ by {difference:.0%} (base_fingerprint). Load the base that the model card names"
        + (f" ({config.base_model_name_or_path})" if config.base_model_name_or_path else "")
        + ". To use this one all the same: config = PeftConfig.from_pretrained(path); config.base_fingerprint = None; "
        "PeftModel.from_pretrained(model, path, config=config)."
    )


def check_loads(found: Shapes, model: nn.Module, adapter_name: str, config: PrefixConfig) -> None:
    """The same check for a file whose tensors are to go into an adapter which the model already has."""
    layers = [layer for layer in prefix_layers(model) if adapter_name in layer.config]
    needed = released_shapes([layer.site for layer in layers], config)
    _compare(found, needed | _saved_besides(model, found, config), model)


def check_tensors(state_dict: dict[str, Tensor], model: nn.Module, adapter_name: str, config: PrefixConfig) -> None:
    """The same check for tensors that are about to be copied, where those of ``modules_to_save`` are out of the way."""
    besides = (*(config.modules_to_save or ()), *EMBEDDING_LAYER_NAMES)
    shapes = {
        key if key.startswith("base_model.") else f"base_model.model.{key}": tuple(tensor.shape)
        for key, tensor in state_dict.items()
    }
    needed = _held(model, adapter_name)
    if not any(map(is_unit, shapes)):  # a release holds none, and a prefix that trains takes its own
        needed = {key: shape for key, shape in needed.items() if not is_unit(key)}
    _compare({k: v for k, v in shapes.items() if k in needed or not _belongs_to(k, besides)}, needed, model)


def released_shapes(sites: Iterable[Site], config: PrefixConfig) -> Shapes:
    """The shapes of a release's tensors, by their names in its file."""
    needed: Shapes = {}
    for site in sites:
        path = f"base_model.model.{site.name}.prefix_kv.prefix_kv_encoder"
        heads, length = site.num_key_value_heads, config.length_at(site.name)
        needed |= {f"{path}.p_key": (heads, length, site.key_dim), f"{path}.p_value": (heads, length, site.value_dim)}
        if config.gate:
            needed[f"{path}.p_gate"] = gate_shape(config.gate, heads, length)
    return needed


def _held(model: nn.Module, adapter_name: str) -> Shapes:
    """The shapes of an adapter's tensors, by the names that a file would give them."""
    return {
        f"base_model.model.{path.removeprefix('base_model.model.').removesuffix(f'.{adapter_name}')}.{name}": tuple(
            tensor.shape
        )
        for path, encoder in encoders_of(model, adapter_name)
        for name, tensor in encoder.state_dict().items()
    }


def _compare(found: Shapes, needed: Shapes, model: nn.Module) -> None:
    faults = [f"missing {key} {needed[key]}" for key in needed if key not in found]
    faults += [f"unexpected {key} {found[key]}" for key in found if key not in needed]
    faults += [
        f"{key} is {found[key]} in the file, the model needs {needed[key]}"
        for key in needed
        if key in found and found[key] != needed[key]
    ]
    if faults:
        more = f"\n  and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(
            f"the prefix in the file was not made for this {type(model).__name__} "
            f"({len(found)} tensors found, {len(needed)} needed):"
            + "".join(f"\n  {fault}" for fault in faults[:8])
            + more
        )


def _saved_besides(model: nn.Module, found: Shapes, config: PrefixConfig) -> Shapes:
    """What a file must hold of ``modules_to_save``, and may hold of the embeddings, which PEFT saves when resized."""
    prefix = "" if isinstance(model, PeftModel) else "base_model.model."
    own = {
        prefix + key.replace(".original_module.", "."): tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if "prefix_kv" not in key
    }
    modules, embeddings = tuple(config.modules_to_save or ()), tuple(EMBEDDING_LAYER_NAMES)
    return {
        key: shape
        for key, shape in own.items()
        if _belongs_to(key, modules) or (key in found and _belongs_to(key, embeddings))
    }


def _belongs_to(key: str, endings: tuple[str, ...]) -> bool:
    """Whether a tensor is of a module whose name ends so, which is how PEFT reads ``modules_to_save``."""
    return any(name.endswith(endings) for name in accumulate(key.split(".")[:-1], "{}.{}".format))
