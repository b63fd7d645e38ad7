"""Training: milliseconds for the forward and backward pass of one step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from peft import PeftConfig
from torch import nn
from tqdm import tqdm

from .rounds import Case, measure, now
from .settings import Settings, Step
from .sides import BARE, OURS, PEFT, attach, build, configs, tokens

HOW = """Forward and backward pass of one step, without an optimizer. The bare model's weights are frozen as the others'
are, and its input embeddings require a gradient, so that gradients pass every layer. MLP: `prefix_projection=True`."""


def cases(settings: Settings, progress: tqdm) -> Iterator[Case]:
    """Every step that the settings name."""
    model = build(settings)
    for step in settings.steps:
        ids = tokens(settings, step.batch, step.length)
        trials = {side: partial(step_time, learner(model, c), ids) for side, c in learners(step.prefix).items()}
        yield measure(
            Case("train", named(step), "ms/step", BARE),
            trials,
            settings.rounds,
            progress,
        )


def named(step: Step) -> str:
    """What a step is called in tables."""
    return f"{step.batch}x{step.length}, prefix {step.prefix}"


def count(settings: Settings) -> int:
    """How many rounds there will be."""
    return len(settings.steps) * (settings.rounds + 1)  # one to warm up


def learners(prefix: int) -> dict[str, PeftConfig | None]:
    """All sides, and both prefixes trained through an MLP."""
    through_mlp = configs(prefix, prefix_projection=True, encoder_hidden_size=512)
    return configs(prefix) | {f"{side}, MLP": through_mlp[side] for side in (PEFT, OURS)}


def learner(model: nn.Module, config: PeftConfig | None) -> nn.Module:
    """A side that is ready to learn; the bare model as far down as the others are."""
    side = attach(model, config).train()
    if config is None:
        side.enable_input_require_grads()
    return side


def step_time(model: nn.Module, ids: torch.Tensor) -> float:
    """Milliseconds of one forward and backward pass."""
    device = str(ids.device)
    start = now(device)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss.backward()
    taken = now(device) - start
    model.zero_grad(set_to_none=True)
    return taken * 1e3
