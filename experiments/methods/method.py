"""Method: a way to make a frozen base model trainable by few parameters, or by all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import nn
from transformers import PreTrainedModel

from prefix_peft.evaluation.loss import Loss

from .settings import Settings

Prepare = Callable[[PreTrainedModel, Settings], nn.Module]


def as_it_is(loss_of: Loss) -> Loss:
    """The same loss."""
    return loss_of


@dataclass(frozen=True)
class Method:
    """One way. ``prepare`` takes a base model of its own, which it changes and perhaps wraps."""

    name: str
    what: str  # with its source
    learning_rate: float  # AdamW's at its peak, to begin with
    prepare: Prepare
    knob: str | None = None  # the field of Settings that says how many parameters are trained
    adapt_loss: Callable[[Loss], Loss] = as_it_is  # what a loss must be wrapped in to train this method


def seeded(attach: Prepare) -> Prepare:
    """``attach`` on a base that is frozen and in eval mode, from a start that depends on ``settings.seed`` alone."""

    @wraps(attach)
    def prepare(base: PreTrainedModel, settings: Settings) -> nn.Module:
        base.requires_grad_(False).eval()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            return attach(base, settings)

    return prepare


def trained_parameters(model: nn.Module) -> int:
    """How many numbers are trained; what is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
