"""One pass of the frozen model over tokens, which keeps their keys and values at every site."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .anatomy.trial import body
from .anatomy.watching import anatomy_of
from .hook import Call, calling

KeysValues = dict[str, tuple[Tensor, Tensor]]  # by site name: keys (G, P, D_k) and values (G, P, D_v)


def one_pass(
    model: PreTrainedModel, inputs: dict[str, Any], positions: dict[str, Tensor], lengths: dict[str, int]
) -> tuple[KeysValues, Any]:
    """The keys and values of the tokens in ``inputs``, at ``positions`` where there are any; and the model's cache.

    Models that scale their queries by position have no scale for one to the left of a text. So the tokens are read
    where a text begins, and then once more to the left of it, for the keys alone: all attention gives what it gave.

    Args:
        lengths: how many tokens each role reads; what a cache among ``inputs`` holds does not count.
    """
    if not positions:
        with _keeping(model, lengths) as seen:
            cache = _cache(body(model)(**inputs))
        return _combined(seen), cache
    sites = [model.get_submodule(name) for name in anatomy_of(model).sites]
    with _keeping(model, lengths) as seen, _recording(sites) as outputs:
        cache = _cache(body(model)(**inputs))
    alone = {name: value for name, value in inputs.items() if name != "past_key_values"}
    try:
        with _keeping(model, lengths) as to_the_left, _replaying(outputs):
            body(model)(**alone, **positions)
    except (TypeError, ValueError):  # a model that takes no positions after all, or none to the left of the text
        return _combined(seen), cache
    return _combined(to_the_left), cache


def _cache(output: Any) -> Any:
    return getattr(output, "past_key_values", None)


Turns = dict[str, list[tuple[Tensor, Tensor]]]  # by site name: keys and values of each of its calls


@contextmanager
def _keeping(model: PreTrainedModel, lengths: dict[str, int]) -> Iterator[Turns]:
    """The keys and values that come by inside."""
    sites = {model.get_submodule(name): site for name, site in anatomy_of(model).sites.items()}
    seen: Turns = {site.name: [] for site in sites.values()}

    def keep(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, turn: int) -> None:
        site = sites.get(module)
        if site is not None and len(seen[site.name]) < site.turns:
            turns = seen[site.name]
            turns.append(_of_the_tokens(key[0].detach(), value[0].detach(), lengths[site.role], site.sees_encoder))

    with calling(Call(watcher=keep)):
        yield seen


def _combined(seen: Turns) -> KeysValues:
    """A site's keys, which are the same at each turn, and its values side by side."""
    return {
        name: (turns[0][0], torch.cat([value for _, value in turns], dim=-1) if len(turns) > 1 else turns[0][1])
        for name, turns in seen.items()
        if turns
    }


def _of_the_tokens(key: Tensor, value: Tensor, count: int, sees_encoder: bool) -> tuple[Tensor, Tensor]:
    """Keys and values (G, count, D) of the tokens, where a model has put more beside them: its own, padding, a cache.

    A decoder that ``sees_encoder`` in the same softmax has that behind its tokens.
    """
    if key.shape[1] > count:
        filled = (key != 0).any(-1).any(0).nonzero()[:, 0]
        place = filled[:count] if sees_encoder else filled[-count:]
        key, value = key[:, place], value[:, place]
    return key.float(), value.float()


@contextmanager
def _recording(modules: list[nn.Module]) -> Iterator[dict[nn.Module, deque[Any]]]:
    """What each module returns inside, in the order of its calls."""
    outputs: dict[nn.Module, deque[Any]] = {module: deque() for module in modules}
    handles = [
        module.register_forward_hook(lambda m, _, output: outputs[m].append(_light(output))) for module in modules
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _light(output: Any) -> Any:
    """Without attention weights (B, H, T, S), which nothing behind asks for, and which would outweigh all the rest."""
    if not isinstance(output, tuple):
        return output
    return tuple(None if isinstance(part, Tensor) and part.dim() == 4 else part for part in output)


@contextmanager
def _replaying(outputs: dict[nn.Module, deque[Any]]) -> Iterator[None]:
    """Inside, each module returns what was recorded."""
    handles = [module.register_forward_hook(lambda m, *_: outputs[m].popleft()) for module in outputs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
