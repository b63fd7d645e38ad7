"""The keys and values of real tokens, as the frozen model computes them to the left of a text."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .by_hand.door import opened
from .hook import Call, calling
from .trial import body, is_encoder_decoder, token_table, undisturbed
from .watching import anatomy_of

KeysValues = dict[str, tuple[Tensor, Tensor]]  # by site name: keys (G, P, D_k) and values (G, P, D_v)


def read_activations(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor) -> KeysValues:
    """The keys and values of ``tokens`` (1, P) at every site of the frozen ``model``, no prefix taking part."""
    anatomy = anatomy_of(model)
    sites = {model.get_submodule(name): site for name, site in anatomy.sites.items()}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in anatomy.sites}

    def keep(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, turn: int) -> None:
        site = sites.get(module)
        if site is not None and len(seen[site.name]) < site.turns:
            count = decoder_tokens.shape[1] if site.role == "decoder" else tokens.shape[1]
            key, value = key[0].detach().float(), value[0].detach().float()
            seen[site.name].append(_of_the_tokens(key, value, count, site.sees_encoder))

    by_hand = [module for module, site in sites.items() if site.by_hand]
    with undisturbed(model), opened(by_hand), calling(Call(watcher=keep)):
        _run(model, list(sites), _inputs(model, tokens, decoder_tokens), _positions(model, tokens, decoder_tokens))
    return {
        name: (turns[0][0], torch.cat([value for _, value in turns], dim=-1)) for name, turns in seen.items() if turns
    }


def _of_the_tokens(key: Tensor, value: Tensor, count: int, merged: bool) -> tuple[Tensor, Tensor]:
    """Keys and values (G, count, D) of the tokens, where a model has put more beside them: its own, or padding.

    ``merged`` attention is over a decoder's tokens and, behind them, its encoder's.
    """
    if key.shape[1] > count:
        filled = (key != 0).any(-1).any(0)
        place = slice(count) if merged else slice(-count, None)
        key, value = key[:, filled][:, place], value[:, filled][:, place]
    return key, value


def _run(model: PreTrainedModel, sites: list[nn.Module], inputs: dict[str, Any], positions: dict[str, Tensor]) -> None:
    """Read the tokens, at ``positions`` where there are any.

    Models that scale their queries by position have no scale for one to the left of a text. So the tokens are read
    where a text begins, and then once more to the left of it, for the keys alone: all attention gives what it gave.
    """
    if not positions:
        body(model)(**inputs)
        return
    try:
        with calling(Call(watcher=lambda *_: None)), _recording(sites) as outputs:
            body(model)(**inputs)
        with _replaying(outputs):
            body(model)(**inputs, **positions)
    except (TypeError, ValueError):  # a model that takes no positions after all, or none to the left of the text
        body(model)(**inputs)


@contextmanager
def _recording(modules: list[nn.Module]) -> Iterator[dict[nn.Module, deque[Any]]]:
    """What each module returns inside, in the order of its calls."""
    outputs: dict[nn.Module, deque[Any]] = {module: deque() for module in modules}
    handles = [module.register_forward_hook(lambda m, _, output: outputs[m].append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaying(outputs: dict[nn.Module, deque[Any]]) -> Iterator[None]:
    """Inside, each module returns what was recorded."""
    handles = [module.register_forward_hook(lambda m, *_: outputs[m].popleft()) for module in outputs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _inputs(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor) -> dict[str, Any]:
    device, shape = token_table(model).device, anatomy_of(model).source_shape
    inputs: dict[str, Any] = {"input_ids": tokens.to(device)}
    if shape is not None:
        inputs = {model.main_input_name: torch.randn(shape, dtype=model.dtype, device=device)}
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = decoder_tokens.to(device)
    if "use_cache" in inspect.signature(body(model).forward).parameters:
        inputs["use_cache"] = False
    return inputs


def _positions(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor) -> dict[str, Tensor]:
    """Those just to the left of a text, as an argument for models that have no table of positions but take it.

    Decoders behind an encoder of images or sound may take it without naming it, and pass it on.
    """
    learned, known = anatomy_of(model).positions, inspect.signature(body(model).forward).parameters
    name, ids, taken = "position_ids", tokens, any(p.kind is p.VAR_KEYWORD for p in known.values())
    if is_encoder_decoder(model):
        name, ids, taken, learned = "decoder_position_ids", decoder_tokens, False, learned.keys() & {"decoder"}
    if learned or not (taken or name in known):
        return {}
    return {name: torch.arange(-ids.shape[1], 0, device=token_table(model).device)[None]}
