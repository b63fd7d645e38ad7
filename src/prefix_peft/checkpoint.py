"""The release file: P and nothing else, read only when it fits.

``adapter_model.safetensors`` holds, for each site, ``p_key`` (G, P, D_k) and ``p_value`` (G, P, D_v), and ``p_gate``
(G,) or (G, P) where the prefix has a gate. An MLP is folded into P before anything is written.
"""

from __future__ import annotations

import os
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft.utils.other import EMBEDDING_LAYER_NAMES, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .anatomy.sites import Site
from .config import PrefixConfig, Shapes
from .encoders import MLPEncoder, gate_shape
from .gathering import full_tensors
from .layer import PrefixLayer
from .sinks import join_parts

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


def read_shapes(directory: str | os.PathLike, subfolder: str | None = None, **hub: Any) -> Shapes | None:
    """The shapes that a release's file declares, by name; None where there is no file yet.

    Raises:
        ValueError: the file is truncated or not safetensors, or there is only a pickle, which is never opened.
    """
    folder = Path(directory, subfolder or "")
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        if (folder / WEIGHTS_NAME).is_file():
            raise ValueError(_pickle_message(folder / WEIGHTS_NAME))
        if folder.is_dir():
            return None
        path = _download(str(directory), subfolder, **hub)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}). Fetch or save it again.") from error


def _download(repo_id: str, subfolder: str | None, **hub: Any) -> Path:
    try:
        return Path(hf_hub_download(repo_id, SAFETENSORS_WEIGHTS_NAME, subfolder=subfolder, **hub))
    except EntryNotFoundError as error:
        raise ValueError(f"{repo_id} has no {SAFETENSORS_WEIGHTS_NAME}; {_pickle_message(WEIGHTS_NAME)}") from error


def _pickle_message(path: object) -> str:
    return (
        f"{path} would be a pickle, which can run code when read and is never opened. Save the prefix as safetensors."
    )


def check_fits(config: PrefixConfig, sites: dict[str, Site], fingerprint: list[float], model_name: str) -> None:
    """Refuse, before anything changes, a file that is not for this model and config.

    Raises:
        ValueError: missing, extra or wrongly shaped tensors, each named with the shape found and the shape needed; or a
            base model of the same shapes but other weights.
    """
    found = config.file_shapes
    if found is None:
        return
    needed: Shapes = {}
    for site in sites.values():
        path = f"base_model.model.{site.name}.prefix_kv.prefix_kv_encoder"
        heads, length = site.num_key_value_heads, config.length_at(site.name)
        needed |= {f"{path}.p_key": (heads, length, site.key_dim), f"{path}.p_value": (heads, length, site.value_dim)}
        if config.gate:
            needed[f"{path}.p_gate"] = gate_shape(config.gate, heads, length)
    _compare(found, needed, config, model_name)
    _check_base(config, fingerprint, model_name)
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


def check_tensors(state_dict: dict[str, Tensor], model: nn.Module, adapter_name: str, config: PrefixConfig) -> None:
    """The same check for tensors that are about to go into an adapter which the model already has."""
    needed: Shapes = {}
    for path, encoder in encoders_of(model, adapter_name):
        path = "base_model.model." + path.removeprefix("base_model.model.").removesuffix(f".{adapter_name}")
        needed |= {f"{path}.{name}": tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    found = {
        key if key.startswith("base_model.") else f"base_model.model.{key}": tuple(tensor.shape)
        for key, tensor in state_dict.items()
    }
    _compare(found, needed, config, type(model).__name__)


def _compare(found: Shapes, needed: Shapes, config: PrefixConfig, model_name: str) -> None:
    saved = (*(config.modules_to_save or ()), *EMBEDDING_LAYER_NAMES)
    ours = {key: shape for key, shape in found.items() if key in needed or not _belongs_to(key, saved)}
    faults = [f"missing {key} {needed[key]}" for key in needed if key not in ours]
    faults += [f"unexpected {key} {ours[key]}" for key in ours if key not in needed]
    faults += [
        f"{key} is {ours[key]} in the file, the model needs {needed[key]}"
        for key in needed
        if key in ours and ours[key] != needed[key]
    ]
    if faults:
        more = f"\n  and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(
            f"the prefix in the file was not made for this {model_name} "
            f"({len(found)} tensors found, {len(needed)} needed):"
            + "".join(f"\n  {fault}" for fault in faults[:8])
            + more
        )


def _belongs_to(key: str, endings: tuple[str, ...]) -> bool:
    """Whether a tensor is of a module whose name ends so, which is how PEFT reads ``modules_to_save``."""
    return any(name.endswith(endings) for name in accumulate(key.split("."), "{}.{}".format))
