"""Switching: microseconds to another adapter, and what it costs that every row has its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

from peft import PeftConfig
from torch import nn
from tqdm import tqdm
from transformers import LlamaForCausalLM

from .decode import step_time
from .rounds import Case, measure, now
from .settings import Settings
from .sides import BARE, LORA, OURS, PEFT, attach, build, configs

SWITCHES = 20  # in one trial
HOW = """`set_adapter` there and back. Then decoding as above: one adapter for all rows, and `adapter_names` with a
different one for each row, which PEFT's prefix tuning cannot."""


def cases(settings: Settings, progress: tqdm) -> Iterator[Case]:
    """Switching, then rows that share an adapter and rows that do not."""
    model, rows, length = build(settings), settings.rows, settings.row_prefix
    sides = configs(length)
    trials = {side: partial(switch_time, several(model, sides[side], 2), settings) for side in (PEFT, LORA, OURS)}
    yield measure(Case("switch", f"set_adapter, prefix {length}", "us", PEFT), trials, settings.rounds, progress)
    shared = {side: decoder(model, config, 1, settings) for side, config in sides.items()}
    case = Case("switch", f"{rows} rows with 1 prefix of {length}", "ms/token", BARE)
    yield measure(case, shared, settings.rounds, progress)
    own = {side: decoder(model, config, rows, settings) for side, config in sides.items() if side != PEFT}
    case = Case("switch", f"{rows} rows with {rows} prefixes of {length}", "ms/token", BARE)
    yield measure(case, own, settings.rounds, progress)


def count(settings: Settings) -> int:
    """How many rounds there will be."""
    return 3 * (settings.rounds + 1)  # one to warm up


def several(model: LlamaForCausalLM, config: PeftConfig | None, number: int) -> nn.Module:
    """A side with as many adapters: 'default', '1', '2' ..."""
    side = attach(model, config)
    for name in map(str, range(1, number if config is not None else 1)):
        side.add_adapter(name, copy.deepcopy(config))
    return side


def switch_time(model: nn.Module, settings: Settings) -> float:
    """Microseconds of one ``set_adapter``."""
    start = now(settings.device)
    for turn in range(SWITCHES):
        model.set_adapter(("1", "default")[turn % 2])
    return (now(settings.device) - start) / SWITCHES * 1e6


def decoder(model: LlamaForCausalLM, config: PeftConfig | None, number: int, settings: Settings) -> partial[float]:
    """A trial of decoding in which the rows have ``number`` different adapters."""
    names = ["default", *map(str, range(1, number))]
    rows = {} if number == 1 or config is None else {"adapter_names": [names[i % number] for i in range(settings.rows)]}
    return partial(step_time, several(model, config, number), settings, settings.rows, **rows)
