"""Loading: milliseconds until an adapter is there, and the forward passes of the model that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from tqdm import tqdm
from transformers import LlamaForCausalLM, LlamaModel

from .rounds import Case, measure, now
from .settings import Settings
from .sides import LORA, OURS, PEFT, attach, build, configs, twin

ACTIONS = ("wrap a model", "load the first", "load a second")
HOW = """`get_peft_model` on a model that was never wrapped, `PeftModel.from_pretrained` on another, and `load_adapter`
on a model that has one already; all from the local disk. Then how often the whole model runs meanwhile, as a hook sees
it."""


def cases(settings: Settings, progress: tqdm) -> Iterator[Case]:
    """Every action with every prefix: its time; and the forward passes that it costs."""
    model, timed = build(settings), partial(milliseconds, settings.device)
    for prefix, action in product(settings.prefixes, ACTIONS):
        with prepared(model, prefix, action) as actions:
            trials = {side: partial(timed, *actions[side]) for side in actions}
            yield measure(Case("load", f"{action}, prefix {prefix}", "ms", PEFT), trials, settings.rounds, progress)
    for action in ACTIONS:
        with prepared(model, settings.prefixes[0], action) as actions:
            trials = {side: partial(passes, *actions[side]) for side in actions}
            case = Case("load", action, "forward passes", PEFT, compare="nothing")
            yield measure(case, trials, 1, progress, warm_up=False)


def count(settings: Settings) -> int:
    """How many rounds there will be."""
    return len(ACTIONS) * (len(settings.prefixes) * (settings.rounds + 1) + 1)  # one to warm up


Action = tuple[Callable[[], nn.Module], Callable[[nn.Module], object]]  # what comes before, and what counts


@contextmanager
def prepared(model: LlamaForCausalLM, prefix: int, action: str) -> Iterator[dict[str, Action]]:
    """Each side's way to do ``action``; the files that it reads are there inside the ``with`` block."""
    sides = configs(prefix)
    with TemporaryDirectory() as directory:
        yield {side: _action(model, sides[side], Path(directory, side), action) for side in (PEFT, LORA, OURS)}


def _action(model: LlamaForCausalLM, config: PeftConfig, folder: Path, action: str) -> Action:
    fresh = partial(twin, model)
    if action == "wrap a model":
        return fresh, lambda bare: get_peft_model(bare, copy.deepcopy(config))
    attach(model, config).save_pretrained(str(folder))
    if action == "load the first":
        return fresh, lambda bare: PeftModel.from_pretrained(bare, folder)
    return lambda: PeftModel.from_pretrained(fresh(), folder), lambda wrapped: wrapped.load_adapter(folder, "second")


def milliseconds(device: str, before: Callable[[], nn.Module], act: Callable[[nn.Module], object]) -> float:
    """How long ``act`` takes on what ``before`` returns."""
    model = before()
    start = now(device)
    act(model)
    return (now(device) - start) * 1e3


def passes(before: Callable[[], nn.Module], act: Callable[[nn.Module], object]) -> float:
    """How often the model runs in ``act``."""
    model, seen = before(), []
    handle = register_module_forward_pre_hook(lambda module, _: seen.append(module))
    try:
        act(model)
    finally:
        handle.remove()
    return float(sum(isinstance(module, LlamaModel) for module in seen))
