"""Add, switch, delete and load adapters on one model, thousands of times, and see what is left behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import peft
import psutil
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

import prefix_peft
from prefix_peft import PrefixConfig

from . import runs
from .outcome import Outcome

HOW = """One model with one prefix, in one process. A cycle adds a second one (every other time with an MLP), switches
to it, runs the model and deletes it; then loads a third one from a file, switches to it, runs the model and deletes
it; then the model is run without any prefix. A cycle of the second kind wraps a bare model, runs it and unloads.
Counted from one tenth of the cycles on: the blocks of memory that Python holds, less those that safetensors 0.8 itself
keeps of every file that it reads (up to two a tensor, which is measured beside it); the objects that the garbage
collector knows; and the resident memory of the process. Caches go on filling for some hundreds of cycles, and the
allocator holds pages back, so what must hold has room for that, once."""
WARM = 0.1  # of the cycles, for what is made once
BLOCKS, OBJECTS, RESIDENT = 800, 100, 16 * 2**20  # over all cycles
LOADS = 500


@dataclass(frozen=True)
class Held:
    """What there is at one moment."""

    blocks: int
    objects: int
    resident: int
    modules: list[str]  # with what hangs on them, and how many hooks and the like

    @classmethod
    def now(cls, model: nn.Module) -> Held:
        """Look, after taking away what is only waiting to be."""
        gc.collect()
        modules = [f"{name}: {_attributes(module)}" for name, module in model.named_modules()]
        resident = psutil.Process().memory_info().rss
        return cls(sys.getallocatedblocks(), len(gc.get_objects()), resident, modules)


@dataclass(frozen=True)
class Found:
    """What many cycles have changed."""

    cycles: int
    same: int  # cycles after which the model without a prefix computed the same bits
    blocks: int
    objects: int
    resident: int
    modules: bool  # are what they were

    def memory(self) -> str:
        """In words."""
        return f"{self.blocks:+,} blocks, {self.objects:+,} objects, {self.resident / 2**20:+.1f} MiB"

    def grew(self) -> bool:
        """By more than a cache."""
        return self.blocks >= BLOCKS or self.objects >= OBJECTS or self.resident >= RESIDENT


def drill(quick: bool) -> Iterator[Outcome]:
    """300 cycles or 10,000 of this library's prefixes, some of PEFT's own, and some that begin and end without any."""
    with runs.playground() as folder:
        ours = of_adapters(300 if quick else 10_000, folder / "ours", PrefixConfig)
        theirs = of_adapters(100 if quick else 1_000, folder / "theirs", peft.PrefixTuningConfig)
    wrapped = of_wrapping(100 if quick else 2_000)
    what = "add, switch, delete, load, switch, delete"
    yield from _rows(what, ours, f"the same bits in {theirs.same:,} of {theirs.cycles:,}", theirs)
    yield from _rows("wrap, run, unload", wrapped, "no unload: it leaves the base as it is", None)


def _rows(what: str, found: Found, logits: str, theirs: Found | None) -> Iterator[Outcome]:
    kept, memory = ("are" if theirs.modules else "are not", theirs.memory()) if theirs else ("-", "-")
    same = "the model without a prefix computes the same bits"
    yield Outcome(f"cycles of {what}", same, found.cycles, found.same, logits)
    yield Outcome("modules, hooks and attributes behind them", "what they were before", 1, int(found.modules), kept)
    least = f"fewer than {BLOCKS} blocks, {OBJECTS} objects and {RESIDENT >> 20} MiB"
    yield Outcome(f"memory behind them: {found.memory()}", least, 1, int(not found.grew()), memory)


def of_adapters(cycles: int, directory: Path, kind: type[PeftConfig]) -> Found:
    """Adapters that come and go on a model that always has one."""
    base = runs.base_model()
    bare = _logits(base)
    model = peft.get_peft_model(base, kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    model.save_pretrained(str(directory))

    def cycle(i: int) -> bool:
        config = {"num_virtual_tokens": 5, "prefix_projection": i % 2 == 0, "encoder_hidden_size": 7}
        model.add_adapter("second", kind(task_type="CAUSAL_LM", **config))
        _use_and_delete(model, "second")
        model.load_adapter(str(directory), "third")
        _use_and_delete(model, "third")
        with model.disable_adapter():
            return torch.equal(_logits(model), bare)

    return _count(cycles, cycle, model, _blocks_of_a_load(directory / "adapter_model.safetensors"))


def _use_and_delete(model: PeftModel, name: str) -> None:
    model.set_adapter(name)
    _logits(model)
    model.set_adapter("default")
    model.delete_adapter(name)


def of_wrapping(cycles: int) -> Found:
    """A model that gets a prefix, is run and loses it again."""
    base = runs.base_model()
    bare = _logits(base)

    def cycle(_: int) -> bool:
        model = prefix_peft.wrap(base, 3)
        _logits(model)
        return model.unload() is base and torch.equal(_logits(base), bare)

    return _count(cycles, cycle, base, 0)


def _count(cycles: int, cycle: Callable[[int], bool], model: nn.Module, blocks_of_a_load: int) -> Found:
    same, warm, before = 0, int(WARM * cycles), Held.now(model)
    for i in tqdm(range(cycles), desc="cycles", mininterval=5):
        if i == warm:
            before = Held.now(model)
        same += cycle(i)
    after = Held.now(model)
    return Found(
        cycles, same, after.blocks - before.blocks - blocks_of_a_load * (cycles - warm), after.objects - before.objects,
        after.resident - before.resident, after.modules == before.modules,
    )  # fmt: skip


@torch.no_grad()
def _logits(model: nn.Module) -> Tensor:
    return model(input_ids=torch.arange(5, 21).view(2, 8)).logits


def _attributes(module: nn.Module) -> list[tuple[str, int]]:
    many = (list, tuple, dict, set)
    return sorted((key, len(value) if isinstance(value, many) else 1) for key, value in vars(module).items())


def _blocks_of_a_load(file: Path) -> int:
    """How many blocks of Python's stay behind when a file is read and let go of."""
    for _ in range(LOADS // 10):
        load_file(file)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(LOADS):
        load_file(file)
    gc.collect()
    return round((sys.getallocatedblocks() - before) / LOADS)
