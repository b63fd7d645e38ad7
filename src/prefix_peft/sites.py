"""The sites: which modules of a model attend, learnt by watching one tiny forward pass.

No table of families and no arithmetic on configs: grouped and multi-query heads, keys and values of different widths,
layers of different shape and cross-attention come out right because they are seen, not computed.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .lookups import LookUp, PositionWatch

FINGERPRINT_KEYS, FINGERPRINT_SITES = 4, 3
ENCODER_TOKENS, DECODER_TOKENS = 3, 2  # different, so that the shapes of a call tell its role


@dataclass(frozen=True)
class Site:
    """One attention module as it was seen when called. ``role`` is 'encoder', 'decoder' or 'cross'."""

    name: str
    role: str
    num_key_value_heads: int  # G
    key_dim: int  # D_k
    value_dim: int  # D_v
    by_hand: bool = False  # it computes its attention itself, instead of passing transformers' interface
    look_up: str | None = None  # the function by which it looks its positions up, where it does so itself


@dataclass(frozen=True)
class Anatomy:
    """What a model showed of itself."""

    sites: dict[str, Site]  # by module name
    positions: dict[str, list[LookUp]]  # by role, where positions are looked up in a table, if they are
    fingerprint: list[float]  # a few keys of a fixed token at a few sites: other weights, other numbers


_seen: weakref.WeakKeyDictionary[PreTrainedModel, Anatomy] = weakref.WeakKeyDictionary()


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Watch ``model`` read a few tokens, once; afterwards remember.

    Raises:
        ValueError: no attention of the model, or none of its encoder or decoder, passes transformers' interface.
    """
    if model not in _seen:
        _seen[model] = _watch(model)
    return _seen[model]


def remembered_anatomy(model: nn.Module) -> Anatomy | None:
    """What is known of a model that was watched before; never runs it."""
    return _seen.get(cast("PreTrainedModel", model))


def _watch(model: PreTrainedModel) -> Anatomy:
    from .by_hand import longformer
    from .by_hand.modes import Watch
    from .hook import Call, calling, install

    install()
    names = {module: name for name, module in model.named_modules()}
    encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    encoder = set(model.get_encoder().modules()) if encoder_decoder else set()
    sites: dict[str, Site] = {}
    keys: list[Tensor] = []
    stand_ins: dict[str, Tensor] = {}  # instead of what an attention at the door would return, which need not run

    def see(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, by_hand: bool = False) -> Tensor | None:
        if encoder_decoder:
            role = "encoder" if module in encoder else "cross" if key.shape[2] == ENCODER_TOKENS else "decoder"
        else:
            role = "decoder" if getattr(module, "is_causal", True) else "encoder"
        site = Site(names[module], role, key.shape[1], key.shape[-1], value.shape[-1], by_hand)
        sites.setdefault(site.name, site)
        keys.append(key[0, 0, 0, :FINGERPRINT_KEYS].float())
        if by_hand:
            return None
        batch, heads, queries, _ = query.shape
        stand_ins[site.name] = query.new_zeros(batch, queries, heads, value.shape[-1], requires_grad=True)
        return stand_ins[site.name].clone()

    with undisturbed(model), _running(model) as running:
        positions = PositionWatch(running)
        by_hand = Watch(lambda *seen: see(running[-1], *seen, by_hand=True))
        for module in names:
            longformer.make_readable(module)
        with calling(Call(watcher=see)), by_hand, positions, _differentiable(model):
            output = model(**_tiny_inputs(model, encoder_decoder))
    for module in names:
        longformer.undo(module)
    for name in _without_effect(output, stand_ins):
        del sites[name]
    roles = {site.role for site in sites.values()}
    _check_complete(model, roles, encoder_decoder)
    look_ups: dict[str, list[LookUp]] = {}
    for module, function in dict.fromkeys(positions.found):
        if function == "embedding" or any(site.by_hand for site in sites.values()):
            role = "encoder" if module in encoder or roles == {"encoder"} else "decoder"
            look_ups.setdefault(role, []).append(LookUp(names[module], function))
            if names[module] in sites:
                sites[names[module]] = replace(sites[names[module]], look_up=function)
    spread = [keys[i * (len(keys) - 1) // FINGERPRINT_SITES] for i in range(FINGERPRINT_SITES + 1)]
    return Anatomy(sites, look_ups, [float(f"{number:.4g}") for number in torch.cat(spread).tolist()])


@contextmanager
def _running(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules of ``model`` that are running, the innermost last."""
    stack: list[nn.Module] = []

    def enter(module: nn.Module, args: object) -> None:
        stack.append(module)

    def leave(module: nn.Module, args: object, result: object) -> None:
        stack.pop()

    handles = []
    for module in model.modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """What runs inside leaves a graph of what depends on what, but nothing for a backward pass, which there is not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: None):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _without_effect(output: Any, stand_ins: dict[str, Tensor]) -> list[str]:
    """The attentions from which no gradient could come back, as those of a network that only cuts a text to pieces."""
    todo = [part.grad_fn for part in output.values() if isinstance(part, Tensor) and part.grad_fn is not None]
    seen, reached = set(todo), set()
    while todo:
        node = todo.pop()
        reached.add(id(getattr(node, "variable", None)))
        new = [parent for parent, _ in node.next_functions if parent is not None and parent not in seen]
        seen.update(new)
        todo += new
    return [name for name, stand_in in stand_ins.items() if id(stand_in) not in reached]


def _tiny_inputs(model: PreTrainedModel, encoder_decoder: bool) -> dict[str, object]:
    """A few equal tokens: enough to make every layer attend once."""
    device = token_table(model).device
    token = min(7, len(token_table(model)) - 1)
    source = ENCODER_TOKENS if encoder_decoder else DECODER_TOKENS
    inputs: dict[str, object] = {"input_ids": torch.full((1, source), token, device=device)}
    if encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((1, DECODER_TOKENS), token, device=device)
    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs["use_cache"] = False
    return inputs


def token_table(model: PreTrainedModel) -> Tensor:
    """The input embeddings: how many tokens there are, and on which device they are read."""
    table = model.get_input_embeddings()
    return cast("nn.Embedding", table[0] if isinstance(table, nn.ModuleList) else table).weight  # one a codebook


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """In eval mode and without gradients inside; modes and random state as they were afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module in training:
            module.training = True


def _check_complete(model: PreTrainedModel, roles: set[str], encoder_decoder: bool) -> None:
    needed = {"encoder", "decoder"} if encoder_decoder else set()
    missing = sorted(needed - roles) if roles else ["any"]
    if not missing:
        return
    where = "no attention of the model" if missing == ["any"] else f"no attention of the {' or '.join(missing)}"
    raise ValueError(
        f"{type(model).__name__} cannot be served: {where} was seen to pass transformers' attention interface "
        "(AttentionInterface), where a prefix joins the keys and values. Models without attention have no place for a "
        "prefix; families that compute attention by hand are not supported yet."
    )
