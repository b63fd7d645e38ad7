"""Decoding: milliseconds for one more token."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from itertools import pairwise, product

import torch
from torch import nn
from tqdm import tqdm
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList

from .rounds import Case, measure, now
from .settings import Settings
from .sides import BARE, attach, build, configs, tokens

HOW = """The model's own `generate` reads a prompt and writes greedily behind it, with a `DynamicCache` (with
`--compile`: a static one, and compiled steps). A logits processor notes when each step's logits are there, so that
reading the prompt does not count: a figure is the median over the steps of one call."""


def cases(settings: Settings, progress: tqdm) -> Iterator[Case]:
    """Every batch behind every prefix."""
    model = build(settings)
    for batch, prefix in product(settings.batches, settings.prefixes):
        trials = {
            side: partial(step_time, attach(model, config), settings, batch) for side, config in configs(prefix).items()
        }
        case = Case("decode", f"batch {batch}, prefix {prefix}", "ms/token", BARE)
        yield measure(case, trials, settings.rounds, progress)


def count(settings: Settings) -> int:
    """How many rounds there will be."""
    return len(settings.batches) * len(settings.prefixes) * (settings.rounds + 1)  # one to warm up


def step_time(model: nn.Module, settings: Settings, batch: int, **options: object) -> float:
    """Milliseconds of the median step; ``options`` are more of ``generate``'s."""
    clock = Clock(settings.device)
    if settings.compile:
        options |= compiling()
    write(model, settings, batch, logits_processor=LogitsProcessorList([clock]), **options)
    return statistics.median(after - before for before, after in pairwise(clock.times)) * 1e3


def write(model: nn.Module, settings: Settings, batch: int, **options: object) -> None:
    """Read a prompt and write greedily behind it."""
    prompt = tokens(settings, batch, settings.prompt)
    mask = torch.ones_like(prompt)
    model.generate(
        input_ids=prompt, attention_mask=mask, max_new_tokens=settings.tokens + 1, do_sample=False, **options
    )


def compiling() -> dict[str, object]:
    """What tells ``generate`` to compile its steps, on a CPU too."""
    config = CompileConfig(fullgraph=False)
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


class Clock(LogitsProcessor):
    """Notes when the logits of each step are there, and leaves them as they are."""

    def __init__(self, device: str) -> None:
        self.device, self.times = device, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.times.append(now(self.device))
        return scores
