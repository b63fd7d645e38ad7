"""Watching a model: one trial run tells its sites, the look-ups of its positions, and a fingerprint of its weights."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..by_hand import longformer
from ..by_hand.modes import Watch
from ..hook import Call, calling, install, no_attention
from .lookups import COMPUTED, LookUp, PositionWatch
from .sites import Anatomy, Site
from .source import example_shape, reads_tokens
from .trial import (
    DECODER_TOKENS,
    ENCODER_TOKENS,
    body,
    equal_tokens,
    is_encoder_decoder,
    leaves_of,
    leaving_a_graph,
    running,
    undisturbed,
    without_other_adapters,
)

FINGERPRINT_KEYS, FINGERPRINT_SITES = 4, 3


_seen: weakref.WeakKeyDictionary[PreTrainedModel, Anatomy] = weakref.WeakKeyDictionary()


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Watch ``model`` read a few tokens, once; afterwards remember.

    Raises:
        ValueError: no attention of the model, or none of its encoder or decoder, was seen.
    """
    if model not in _seen:
        _seen[model] = _watch(model)
    return _seen[model]


def remembered_anatomy(model: nn.Module) -> Anatomy | None:
    """What is known of a model that was watched before; never runs it."""
    return _seen.get(cast("PreTrainedModel", model))


def _watch(model: PreTrainedModel) -> Anatomy:
    """Run ``model`` on a few equal tokens and see what attends. Attention that passes the door need not run for it.

    Raises:
        ValueError: no attention of the model, or none of its encoder or decoder, was seen.
    """
    install()
    shape, states = None, ENCODER_TOKENS
    with undisturbed(model), without_other_adapters(model), running(model) as modules, longformer.readable(model):
        if not reads_tokens(model):
            shape, states = example_shape(model)
        observer, positions = _Observer(model, states), PositionWatch(modules)
        by_hand = Watch(lambda *seen: observer.see_by_hand(modules[-1], *seen))
        with calling(Call(watcher=observer.see)), by_hand, positions, leaving_a_graph(model):
            output = body(model)(**equal_tokens(model, shape))
        hears = _hears_of_positions(model, observer) if not positions.found else False
    observer.leave_out_what_has_no_effect([part for part in output.values() if isinstance(part, Tensor)])
    observer.leave_out_what_is_beside_the_door()
    observer.check_complete()
    return Anatomy(observer.sites, observer.look_ups(positions), observer.fingerprint(), shape, hears)


def _hears_of_positions(model: PreTrainedModel, first: _Observer) -> bool:
    """Whether ``model`` takes positions that its ``forward`` does not name, and they reach its keys."""
    known = inspect.signature(model.forward).parameters
    unnamed = "position_ids" not in known and any(p.kind is p.VAR_KEYWORD for p in known.values())
    if is_encoder_decoder(model) or not unnamed or not first.stand_ins:
        return False
    second, inputs = _Observer(model, first.source_states), equal_tokens(model)
    inputs["position_ids"] = torch.arange(DECODER_TOKENS, 2 * DECODER_TOKENS, device=inputs["input_ids"].device)[None]
    try:
        with calling(Call(watcher=second.see)):
            model(**inputs)
    except TypeError:
        return False
    return not torch.equal(torch.cat(first.keys), torch.cat(second.keys))


class _Observer:
    """Notes what it is told of attention."""

    def __init__(self, model: PreTrainedModel, source_states: int) -> None:
        self.model, self.source_states = model, source_states
        self.names = {module: name for name, module in model.named_modules()}
        self.encoder = set(model.get_encoder().modules()) if is_encoder_decoder(model) else set()
        self.sites: dict[str, Site] = {}
        self.keys: list[Tensor] = []
        self.first: dict[str, tuple[Tensor, Tensor]] = {}  # of each site's first call: keys and values
        self.stand_ins: dict[str, Tensor] = {}

    def see(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, turn: int) -> Tensor:
        """A call at the door; what is returned stands in for the attention."""
        self._note(module, key, value)
        self._note_turn(self.names[module], key, value, turn)
        stand_in = no_attention(module, query, key, value, turn).requires_grad_()
        self.stand_ins[self.names[module]] = stand_in
        return stand_in.clone()

    def see_by_hand(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, key_bias: bool) -> None:
        """An attention that never comes to the door, and has run."""
        self._note(module, key, value, by_hand=True, key_bias=key_bias)

    def _note(
        self, module: nn.Module, key: Tensor, value: Tensor, *, by_hand: bool = False, key_bias: bool = False
    ) -> None:
        name, role = self.names[module], self._role(module, key.shape[2])
        beside = is_encoder_decoder(self.model) and role == "decoder" and not by_hand and key.shape[2] > DECODER_TOKENS
        site = Site(name, role, key.shape[1], key.shape[-1], value.shape[-1], by_hand, key_bias, sees_encoder=beside)
        self.sites.setdefault(name, site)
        self.keys.append(key[0, 0, 0, :FINGERPRINT_KEYS].detach().float())

    def _note_turn(self, name: str, key: Tensor, value: Tensor, turn: int) -> None:
        """One more turn of a site, where it meets the keys of its first call again, and other values."""
        site, (first_key, first_value) = self.sites[name], self.first.setdefault(name, (key, value))
        if turn == site.turns and torch.equal(key, first_key) and not torch.equal(value, first_value):
            width = site.value_dim + value.shape[-1]
            self.sites[name] = replace(site, value_dim=width, turns=turn + 1)

    def _role(self, module: nn.Module, keys: int) -> str:
        if not is_encoder_decoder(self.model):
            return "decoder" if getattr(module, "is_causal", True) else "encoder"
        if module in self.encoder:
            return "encoder"
        return "cross" if keys == self.source_states else "decoder"

    def leave_out_what_has_no_effect(self, outputs: Sequence[Tensor]) -> None:
        """Attention from which no gradient can come back, as in a network that only cuts the text into pieces."""
        leaves = leaves_of(list(outputs))
        without = [name for name, stand_in in self.stand_ins.items() if id(stand_in) not in leaves]
        if len(without) < len(self.stand_ins):  # else the model runs without gradients, and nothing can be told
            for name in without:
                del self.sites[name]

    def leave_out_what_is_beside_the_door(self) -> None:
        """What looks like attention by hand where attention passes the door: it chooses among layers, not tokens."""
        at_the_door = {site.role for site in self.sites.values() if not site.by_hand}
        self.sites = {
            name: site for name, site in self.sites.items() if not (site.by_hand and site.role in at_the_door)
        }

    def check_complete(self) -> None:
        roles = {site.role for site in self.sites.values()}
        needed = {"encoder", "decoder"} if is_encoder_decoder(self.model) else set()
        missing = sorted(needed - roles) if roles else ["model"]
        if missing:
            raise ValueError(
                f"{type(self.model).__name__} cannot be served: no attention of the {' or '.join(missing)} was seen "
                "while it read a few tokens. Models without attention (state spaces, recurrence) have no place for a "
                "prefix; attention is seen where it passes transformers' interface, calls scaled_dot_product_attention "
                "or is a product of queries and keys, a softmax, and a product with values."
            )

    def look_ups(self, positions: PositionWatch) -> dict[str, list[LookUp]]:
        """By role. An attention module that looks its positions up by itself has that noted in its site."""
        found: dict[str, list[LookUp]] = {}
        decoders = {site.role for site in self.sites.values()} != {"encoder"}
        by_hand = any(site.by_hand for site in self.sites.values())
        for module, (function, table) in (positions.found | self._rotary_beside_an_encoder(positions)).items():
            of_positions = function in ("embedding", "index_select", *COMPUTED) or isinstance(module, nn.Embedding)
            if not (of_positions or table in module._buffers or by_hand):
                continue  # experts and the like are looked up too, from parameters
            look_up = LookUp(self.names[module], function, table)
            role = "decoder" if decoders and module not in self.encoder else "encoder"
            found.setdefault(role, []).append(look_up)
            if look_up.module in self.sites:
                self.sites[look_up.module] = replace(self.sites[look_up.module], look_up=look_up)
        return found

    def _rotary_beside_an_encoder(self, positions: PositionWatch) -> dict[nn.Module, tuple[str, str | None]]:
        """Of merged attention, whose queries meet the encoder's keys, which no rotation moves along with the text."""
        if not any(site.sees_encoder for site in self.sites.values()):
            return {}
        return {module: way for module, way in positions.rotary.items() if module not in self.encoder}

    def fingerprint(self) -> list[float]:
        keys = self.keys
        spread = [keys[i * (len(keys) - 1) // FINGERPRINT_SITES] for i in range(FINGERPRINT_SITES + 1)]
        return [float(f"{number:.4g}") for number in torch.cat(spread).tolist()]
