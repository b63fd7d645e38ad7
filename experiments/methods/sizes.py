"""Methods at equal numbers of trained parameters."""

from __future__ import annotations

import copy
from bisect import bisect_left
from dataclasses import replace

from transformers import PreTrainedModel

from prefix_peft.values import MOST_TOKENS

from .method import Method, trained_parameters
from .settings import Settings


def size_at(method: Method, base: PreTrainedModel, budget: int, settings: Settings | None = None) -> Settings:
    """The settings whose trained parameters come nearest to ``budget``: ``settings`` with ``method.knob`` turned.

    Raises:
        ValueError: a budget below 1, or a method that trains what it trains.
    """
    if budget < 1:
        raise ValueError(f"the budget must be at least 1 trained parameter, got {budget}.")
    if method.knob is None:
        raise ValueError(f"{method.name} has no size to choose; leave it out of a comparison at {budget:,} parameters.")
    settings = settings or Settings()
    least = 1 + (settings.num_frozen_tokens if method.knob == "num_virtual_tokens" else 0)
    c0, c1, c2 = (count_at(method, base, replace(settings, **{method.knob: least + step})) for step in range(3))

    def count(steps: int) -> int:
        """The parabola through the three, for an MLP's weights grow with the square of its width at most."""
        return c0 + steps * (c1 - c0) + steps * (steps - 1) // 2 * (c2 - 2 * c1 + c0)

    above = bisect_left(range(MOST_TOKENS - least), budget, key=count)
    steps = min((max(above - 1, 0), above), key=lambda steps: abs(count(steps) - budget))
    return replace(settings, **{method.knob: least + steps})


def count_at(method: Method, base: PreTrainedModel, settings: Settings) -> int:
    """By trial, on a twin that shares the base's weights."""
    twin = copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})
    return trained_parameters(method.prepare(twin, replace(settings, init_text=None)))
