"""A prefix onto a model and off it: content becomes what `PrefixModel` carries, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import peft
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ..anatomy.watching import anatomy_of
from ..config import PrefixConfig
from ..encoders import FlatEncoder
from ..layer import PrefixLayer, prefix_layers
from ..model import PrefixModel
from ..wrap import infer_task_type
from .agreeing import check_agrees
from .content import Content, own_role, sites_of
from .rotation import NONE, moved, rotations_of


def attach(model: PreTrainedModel, content: Content) -> PeftModel:
    """``model`` with a trainable prefix that does what ``content`` does where it comes from.

    Raises:
        ValueError: it would not. The model is then as it was.
    """
    if isinstance(model, PeftModel):
        raise ValueError("the model is a PeftModel already; give the base model (model.unload()).")
    lengths = {keys.shape[1] for keys, _ in content.parts.values()}
    if len(lengths) > 1:
        raise ValueError(f"the parts of the prefix have different lengths, {sorted(lengths)}; convert them apart.")
    shifts = content.behind and own_role(model) in anatomy_of(model).positions
    placed = content if shifts else apart(model, content)
    give_back = remember(model)
    wrapped = peft.get_peft_model(model, _config(model, placed, shifts=shifts)).eval()
    try:
        for layer in prefix_layers(wrapped):
            cast("FlatEncoder", layer.encoder("default")).fill(*placed.parts[layer.site.name])
        if content.behind:
            check_agrees(wrapped, content.parts)
        else:
            _check_places(model, content)
    except Exception:
        give_back(wrapped)
        raise
    return wrapped


def remember(model: PreTrainedModel) -> Callable[[PeftModel], None]:
    """Returns what takes a prefix off ``model`` again, and leaves what trains and its modes as they are now."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]

    def give_back(wrapped: PeftModel) -> None:
        cast("PrefixModel", wrapped.base_model).unload()
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True

    return give_back


def _config(model: PreTrainedModel, content: Content, *, shifts: bool) -> PrefixConfig:
    sites = anatomy_of(model).sites
    roles = {sites[name].role for name in content.parts}
    whole = content.parts.keys() == {name for name, site in sites.items() if site.role in roles}
    everywhere = content.parts.keys() == sites.keys()
    config = PrefixConfig(
        num_virtual_tokens=content.length,
        num_frozen_tokens=content.num_frozen_tokens,
        position_mode="shift" if shifts else "keep",
        sites=None if everywhere or not whole else sorted(roles),
        target_modules=None if whole else list(content.parts),
        task_type=infer_task_type(model),
    )
    config.filled_by_caller = True
    return config


def content_of(model: PeftModel, what: str) -> Content:
    """The active prefix of ``model``, an MLP folded, for a format that has no gates and one length: ``what``.

    Raises:
        ValueError: a gate, trained modules, several active prefixes, or several lengths.
    """
    (name,) = model.active_adapters if len(model.active_adapters) == 1 else (None,)
    layers = [layer for layer in prefix_layers(model) if name in layer.config]
    if name is None or not layers:
        raise ValueError(f"one prefix must be active, got {model.active_adapters}; call model.set_adapter(name).")
    gated = [layer.site.name for layer in layers if layer.encoder(name).p_gate is not None]
    if gated:
        raise ValueError(f"{what} has no place for the gate of a prefix, and this one has gates ({gated[0]}).")
    lengths = {layer.length_of(name) for layer in layers}
    if len(lengths) > 1:
        raise ValueError(f"{what} has one length for all layers, and this prefix has {sorted(lengths)}.")
    config = layers[0].config[name]
    if config.modules_to_save:
        raise ValueError(f"{what} has no place for the modules {config.modules_to_save}, which were trained besides.")
    with torch.no_grad():
        parts = {layer.site.name: _of(layer, name) for layer in layers}
    return Content(parts, config.position_mode == "shift", config.num_frozen_tokens)


def _of(layer: PrefixLayer, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = layer.encoder(name)()
    return keys.detach().float().cpu(), values.detach().float().cpu()


def apart(model: PreTrainedModel, content: Content) -> Content:
    """The same prefix for a text that keeps its own positions.

    Raises:
        ValueError: the text begins at P, and its positions are learned: no change of keys replaces that.
    """
    if not content.behind:
        return content
    if own_role(model) in anatomy_of(model).positions:
        raise ValueError(
            f"behind this prefix the text begins at position {content.length} of a table of learned positions "
            "(position_mode='shift'), and the format leaves the text where it is."
        )
    return replace(content, parts=moved(model, content.parts, -content.length), behind=False)


def behind(model: PreTrainedModel, content: Content, what: str) -> Content:
    """The same prefix as a cache, which the text follows.

    Raises:
        ValueError: sites that a cache does not have, or lacks; learned positions that begin at 0.
    """
    role = own_role(model)
    needed, found = [site.name for site in sites_of(model, role)], list(content.parts)
    extra, missing = [n for n in found if n not in needed], [n for n in needed if n not in found]
    if extra or missing:
        raise ValueError(
            f"{what} holds the {role}'s self-attention, all {len(needed)} layers of it and nothing else; this prefix "
            + (f"has {len(extra)} other sites ({extra[0]}, ...)" if extra else f"lacks {missing[0]}")
            + ". Train one with sites=['decoder']."
        )
    ordered = replace(content, parts={name: content.parts[name] for name in needed})
    if content.behind:
        return ordered
    if role in anatomy_of(model).positions:
        raise ValueError(
            f"behind {what} a text begins at position {content.length}, but this prefix was trained with the text at "
            "position 0 of a table of learned positions (position_mode='keep'), which no change of keys replaces."
        )
    return replace(ordered, parts=moved(model, ordered.parts, content.length), behind=True)


def as_cache(model: PeftModel, what: str) -> Content:
    """The active prefix of ``model`` as a cache, with the proof that it does the same."""
    content = behind(base_of(model), content_of(model, what), what)
    check_agrees(model, content.parts)
    return content


def base_of(model: PeftModel) -> PreTrainedModel:
    """What carries the prefix."""
    return cast("PreTrainedModel", model.get_base_model())


def _check_places(model: PreTrainedModel, content: Content) -> None:
    """Relative biases count a prefix among the positions there, and here a prefix has none."""
    known, sites = anatomy_of(model), anatomy_of(model).sites
    own = [name for name in content.parts if sites[name].role != "cross"]
    if not known.positions and own and all(way is NONE for way in rotations_of(model, own).values()):
        raise ValueError(
            f"the attention of {type(model).__name__} has neither learned nor rotary positions, but biases between "
            "places; where this prefix comes from it has places among the text's, and here a prefix has none."
        )
