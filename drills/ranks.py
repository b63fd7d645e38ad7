"""The drill of ranks: whatever shares the work of a run, the prefix is the one that a single process trains."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file

from . import rank_runs
from .outcome import Outcome

ROUNDED = 1e-5  # float32 sums in another order, over six steps of AdamW
HALF = {"bf16": 2e-2, "fp16": 5e-3}  # a step's gradient in 8 or 11 bits, and AdamW forgets its size
FORMS = ("plain", "mlp", "gate", "sinks", "grouped", "checkpointed", "accumulated", "mlp+accumulated")
QUICK = ("plain", "mlp+accumulated")
KEPT = ("mlp+dropout+saved", "mlp+dropout+resumed")
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": ""}
LAUNCHES = {  # what is said of the ways that one launch goes, and its environment
    ("DDP", "FSDP2"): {},
    ("DeepSpeed ZeRO-2",): ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    ("DeepSpeed ZeRO-3",): ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}
HOW = f"""`prefix-peft train` runs on one process with whole batches of {rank_runs.PAIRS_A_STEP} pairs, and on two that
share them (gloo, on CPUs), over {rank_runs.PAIRS} pairs, so that the last step of an epoch has one pair and one rank
none. A prefix holds if its distance from that of one process is at most {ROUNDED:g} of its norm (in 16 bits:
{", ".join(f"{name} {share:g}" for name, share in HALF.items())}) and the losses in its log differ as little. FSDP2 is
Accelerate's own code, which it uses on GPUs only unless it is told to; DeepSpeed runs on its CPU accelerator, where it
is installed. Resumed runs must be equal bit for bit to the uninterrupted one under the same launch."""


def drill(quick: bool) -> Iterator[Outcome]:
    """Compare launches with one process."""
    deepspeed = importlib.util.find_spec("deepspeed") is not None and not quick
    forms, half = (QUICK, ()) if quick else (FORMS, HALF)
    with TemporaryDirectory() as directory:
        one = Path(directory, "one")
        rank_runs.write_data(one.parent / "data.jsonl")
        start(1, one, [*forms, *half])
        for names, environment in LAUNCHES.items():
            if environment and not deepspeed:
                continue
            # DeepSpeed has no fp16 on CPUs
            precisions = [word for word in half if word == "bf16" or not environment]
            ways = {name: "fsdp2" if name == "FSDP2" else "" for name in names}
            output = one.with_name(names[0])
            start(2, output, [with_way(f, w) for w in ways.values() for f in (*forms, *precisions, *KEPT)], environment)
            for name, way in ways.items():
                yield _same_as_one(f"{name}: two ranks", one, output, forms, way)
                if precisions:
                    yield _same_as_one(f"{name}: two ranks in 16 bits", one, output, precisions, way)
                yield _resumed(f"{name}: two ranks, resumed, with dropout", output, way)


def with_way(form: str, way: str) -> str:
    """A name that `rank_runs` knows."""
    return f"{form}+{way}" if way else form


def start(count: int, output: Path, ways: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Train in all ``ways`` on ``count`` ranks.

    Raises:
        RuntimeError: what the ranks said before they stopped.
    """
    program = [str(Path(rank_runs.__file__)), str(output), *ways]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(count)] if count > 1 else []
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    given = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": paths, **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, *program], env=os.environ | given, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.splitlines()[-40:]))


def distance(one: Path, other: Path) -> float:
    """Of two released prefixes, as a share of the norm of the first; infinite where their tensors are not alike."""
    a, b = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    if {name: tensor.shape for name, tensor in a.items()} != {name: tensor.shape for name, tensor in b.items()}:
        return float("inf")
    squares = [((a[name] - b[name]).double().square().sum(), a[name].double().square().sum()) for name in a]
    far, size = (sum(float(square) for square in column) for column in zip(*squares, strict=True))
    return (far / size) ** 0.5


def log_distance(one: Path, other: Path) -> float:
    """The largest relative difference of a figure that two runs have logged."""
    logs = [json.loads((path / "training_log.json").read_text("utf-8"))["log"] for path in (one, other)]
    if [entry.keys() for entry in logs[0]] != [entry.keys() for entry in logs[1]]:
        return float("inf")
    pairs = [(a[key], b[key]) for a, b in zip(*logs, strict=True) for key in a]
    return max(abs(a - b) / max(abs(a), 1e-9) for a, b in pairs)


def _same_as_one(what: str, one: Path, output: Path, forms: Sequence[str], way: str) -> Outcome:
    faults = []
    for form in forms:
        found = [measure(one / form, output / with_way(form, way)) for measure in (distance, log_distance)]
        if max(found) > HALF.get(form, ROUNDED):
            faults.append(f"{form}: the prefix is {found[0]:.1e} away, the log {found[1]:.1e}")
    return Outcome(
        f"{what} ({', '.join(forms)})", "the prefix and losses of one", len(forms), len(forms) - len(faults),
        faults=tuple(faults),
    )  # fmt: skip


def _resumed(what: str, output: Path, way: str) -> Outcome:
    saved, resumed = (output / with_way(name, way) for name in KEPT)
    far = max(distance(saved, resumed), log_distance(saved, resumed))
    faults = () if far == 0 else (f"it is {far:.1e} away",)
    return Outcome(what, "bit for bit the uninterrupted run", 1, int(far == 0), faults=faults)
