"""The sites: which modules of a model attend, learnt by watching one tiny forward pass.

No table of families and no arithmetic on configs: grouped and multi-query heads, keys and values of different widths,
layers of different shape and cross-attention come out right because they are seen, not computed.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

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


@dataclass(frozen=True)
class Anatomy:
    """What a model showed of itself."""

    sites: dict[str, Site]  # by module name
    position_tables: dict[str, str]  # the module names of learned position tables, by role
    fingerprint: list[float]  # a few keys of a fixed token at a few sites: other weights, other numbers
    source_shape: tuple[int, ...] | None = None  # of what the encoder reads, where that is not tokens


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
    from .hook import Call, calling, install
    from .source import example_shape, reads_tokens

    install()
    names = {module: name for name, module in model.named_modules()}
    encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    shape, source = None, ENCODER_TOKENS
    if not reads_tokens(model):
        with undisturbed(model):
            shape, source = example_shape(model)
    sites: dict[str, Site] = {}
    keys: list[Tensor] = []

    def see(module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> bool:
        causal = getattr(module, "is_causal", True)
        role = _role(query.shape[2], key.shape[2], source if encoder_decoder else None, causal)
        site = Site(names[module], role, key.shape[1], key.shape[-1], value.shape[-1])
        sites.setdefault(site.name, site)
        keys.append(key[0, 0, 0, :FINGERPRINT_KEYS].float())
        return False  # the attention itself need not run

    positions = _PositionWatch()
    with undisturbed(model), _without_other_adapters(model), calling(Call(watcher=see)), positions:
        model(**_tiny_inputs(model, encoder_decoder, shape))
    _check_complete(model, {site.role for site in sites.values()}, encoder_decoder)
    weights = {id(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}
    only = None if encoder_decoder else next(iter(sites.values())).role
    tables = {
        only or ("encoder" if length == ENCODER_TOKENS else "decoder"): weights[table]
        for length, table in positions.tables.items()
        if table in weights
    }
    spread = [keys[i * (len(keys) - 1) // FINGERPRINT_SITES] for i in range(FINGERPRINT_SITES + 1)]
    return Anatomy(sites, tables, [float(f"{number:.4g}") for number in torch.cat(spread).tolist()], shape)


def _role(queries: int, keys: int, source: int | None, is_causal: bool) -> str:
    """``source``: how many states the encoder hands over; None where there is no encoder beside a decoder."""
    if source is None:
        return "decoder" if is_causal else "encoder"
    if queries != DECODER_TOKENS:
        return "encoder"
    return "cross" if keys == source else "decoder"


def _tiny_inputs(model: PreTrainedModel, encoder_decoder: bool, shape: tuple[int, ...] | None) -> dict[str, object]:
    """A few equal tokens: enough to make every layer attend once. Silence or black of ``shape`` where that is read."""
    device = token_table(model).device
    token = min(7, len(token_table(model)) - 1)
    source = ENCODER_TOKENS if encoder_decoder else DECODER_TOKENS
    inputs: dict[str, object] = {"input_ids": torch.full((1, source), token, device=device)}
    if shape is not None:
        inputs = {model.main_input_name: torch.zeros(shape, dtype=model.dtype, device=device)}
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


@contextmanager
def _without_other_adapters(model: PreTrainedModel) -> Iterator[None]:
    """A model shows the same of itself whatever LoRA or another method adds to it."""
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    layers = [layer for layer in layers if not layer.disable_adapters and not layer.merged]  # merged: part of the base
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters() would change what trains as well
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def looked_up(func: object, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """The table and the rows that are asked of it, where a model calls an embedding or indexes a parameter."""
    if func is F.embedding:
        return args[1], args[0]
    if func is not Tensor.__getitem__ or not isinstance(args[0], nn.Parameter):
        return None
    table, index = args
    if isinstance(index, slice):
        return table, torch.arange(len(table), device=table.device)[index]
    return (table, index) if isinstance(index, Tensor) and index.dtype == torch.long else None


class _PositionWatch(TorchFunctionMode):
    """Finds learned position tables: asked for as many consecutive rows as there are tokens, although all are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, int] = {}  # number of positions asked for -> id of the table

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = looked_up(func, args)
        if found is not None and found[1].numel() in (ENCODER_TOKENS, DECODER_TOKENS):
            rows = found[1].flatten()
            if bool((rows.diff() == 1).all()):
                self.tables.setdefault(rows.numel(), id(found[0]))
        return func(*args, **(kwargs or {}))


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
