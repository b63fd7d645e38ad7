"""Add, switch, delete and load adapters on one model, thousands of times, and see what is left behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peft
import psutil
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from prefix_peft import PrefixConfig

from . import runs
from .outcome import Outcome

HOW = """One model with one prefix, in one process. A cycle adds a second one (every other time with an MLP), switches
to it, runs the model and deletes it; then loads a third one from a file, switches to it, runs the model and deletes it;
then the model is run without any prefix. Counted from one tenth of the cycles on: the blocks of memory that Python
holds, less those that safetensors 0.8 itself keeps of every file that it reads (up to two a tensor, which is measured
beside it); the objects that the garbage collector knows; and the resident memory of the process. Caches go on filling
for some hundreds of cycles, and the allocator holds pages back, so what must hold has room for that, once."""
WARM = 0.1  # of the cycles, for what is made once
BLOCKS, OBJECTS, RESIDENT = 800, 100, 16 * 2**20  # over all cycles
LOADS = 500


@dataclass(frozen=True)
class Held:
    """What there is at one moment."""

    blocks: int
    objects: int
    resident: int
    modules: list[str]  # with their hooks and what else hangs on them

    @classmethod
    def now(cls, model: nn.Module) -> Held:
        """Look, after taking away what is only waiting to be."""
        gc.collect()
        modules = [f"{name} {_hooks(module)} {sorted(vars(module))}" for name, module in model.named_modules()]
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
    """300 cycles or 10,000 of this library's prefixes, and some of PEFT's own."""
    with runs.workplace() as folder:
        ours = count(300 if quick else 10_000, folder / "ours", PrefixConfig)
        theirs = count(100 if quick else 1_000, folder / "theirs", peft.PrefixTuningConfig)
    yield Outcome(
        "cycles of add, switch, delete, load, switch, delete", "the model without a prefix computes the same bits",
        ours.cycles, ours.same, f"the same bits in {theirs.same:,} of {theirs.cycles:,}",
    )  # fmt: skip
    kept = "are" if theirs.modules else "are not"
    yield Outcome("modules, hooks and attributes after all cycles", "what they were before", 1, int(ours.modules), kept)
    least = f"fewer than {BLOCKS} blocks, {OBJECTS} objects and {RESIDENT >> 20} MiB"
    yield Outcome(f"memory after all cycles: {ours.memory()}", least, 1, int(not ours.grew()), theirs.memory())


def count(cycles: int, directory: Path, kind: type[PeftConfig]) -> Found:
    """Go through them on a new model."""
    base, ids = runs.base_model(), torch.arange(5, 21).view(2, 8)
    bare = _logits(base, ids)
    model = peft.get_peft_model(base, kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    model.save_pretrained(str(directory))
    same, warm, before = 0, int(WARM * cycles), Held.now(model)
    for i in tqdm(range(cycles), desc=f"cycles, {kind.__name__}", mininterval=5):
        if i == warm:
            before = Held.now(model)
        _cycle(model, ids, directory, kind, i % 2 == 0)
        with model.disable_adapter():
            same += torch.equal(_logits(model, ids), bare)
    after = Held.now(model)
    of_loads = _blocks_of_a_load(directory / "adapter_model.safetensors") * (cycles - warm)
    return Found(
        cycles, same, after.blocks - before.blocks - of_loads, after.objects - before.objects,
        after.resident - before.resident, after.modules == before.modules,
    )  # fmt: skip


def _cycle(model: PeftModel, ids: Tensor, directory: Path, kind: type[PeftConfig], mlp: bool) -> None:
    config = {"num_virtual_tokens": 5, "prefix_projection": mlp, "encoder_hidden_size": 7}
    model.add_adapter("second", kind(task_type="CAUSAL_LM", **config))
    model.set_adapter("second")
    _logits(model, ids)
    model.set_adapter("default")
    model.delete_adapter("second")
    model.load_adapter(str(directory), "third")
    model.set_adapter("third")
    _logits(model, ids)
    model.set_adapter("default")
    model.delete_adapter("third")


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids).logits


def _hooks(module: nn.Module) -> list[int]:
    return [len(getattr(module, name)) for name in sorted(vars(module)) if name.endswith("_hooks")]


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
