"""What the drill of ranks starts on one rank or several: it trains in each of the ways named, and leaves the prefixes.

torchrun --nproc_per_node 2 drills/rank_runs.py DIRECTORY plain mlp+accumulated mlp+fsdp2 ...
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefix_peft
from prefix_peft.commands.arguments import EvaluateArguments, TrainArguments
from prefix_peft.data.batches import collate, encode_pairs, padding_id
from prefix_peft.data.tasks import read_jsonl, training_pairs
from prefix_peft.demo import records, run
from prefix_peft.encoders import Trunk
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.evaluation.scoring import evaluate
from prefix_peft.ranks import place
from prefix_peft.ranks.sharing import shared_batches
from prefix_peft.training import results
from prefix_peft.training.train import train

PAIRS, PAIRS_A_STEP = 9, 4  # so the last step of an epoch has one pair, and all ranks but one have none
STEPS, SAVED = 4, 2
LATE = 1.0  # seconds; a rank that did not wait would ask within hundredths
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mlp": {"prefix_projection": True, "encoder_hidden_size": 24, "learning_rate": 1e-3},
    "gate": {"gate": True},
    "sinks": {"num_frozen_tokens": 1},
    "sentences": {"objective": "sentence_sum", "max_grad_norm": 1e9},  # clipped, a wrong scale would not be seen
    "accumulated": {"gradient_accumulation_steps": 2},
    "grouped": {"group_by_length": True},
    "checkpointed": {"gradient_checkpointing": True},
    "dropout": {"prefix_dropout": 0.2},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "saved": {"save_steps": SAVED},
    "resumed": {},  # from what "saved" left
    "fsdp2": {},
    "evaluated": {},
    "late": {},  # the first rank takes its time to write what the others may then ask for
    "script": {},  # a plain loop around torch's fully_shard, and save_pretrained on all ranks
}


def main(argv: list[str]) -> None:
    """Of a directory, which holds data.jsonl, and the ways."""
    output = Path(argv[0])
    for name in argv[1:]:
        words = name.split("+")
        if "script" in words:
            _script(output / name, WAYS["mlp"] if "mlp" in words else {})
            continue
        with sharded() if "fsdp2" in words else nullcontext(), late() if "late" in words else nullcontext():
            train(_arguments(output, words))
        if "evaluated" in words:
            _evaluate(output, name)
        AcceleratorState._reset_state(reset_partial_state=True)
    _part(output)


def _part(output: Path) -> None:
    """All ranks but the first come late; what is noted of each is when it came, and when it left."""
    rank = int(os.environ.get("RANK", "0"))
    time.sleep(LATE if rank else 0)
    (output / f"came-{rank}").write_text(str(time.monotonic()))
    place.leave()
    (output / f"left-{rank}").write_text(str(time.monotonic()))


def write_data(file: Path) -> None:
    """The pairs to train on."""
    pairs = [{"source": pair["source"], "target": pair["references"][0]} for pair in records.pairs("train")[:PAIRS]]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")


def _arguments(output: Path, words: list[str]) -> TrainArguments:
    data, count = str(output.parent / "data.jsonl"), int(os.environ.get("WORLD_SIZE", "1"))
    options: dict[str, Any] = {
        "model": str(run.BASE), "train_file": data, "validation_file": data, "separator": run.SEPARATOR,
        "output_dir": str(output / "+".join(words)), "num_virtual_tokens": 4, "max_steps": STEPS, "logging_steps": 1,
        "learning_rate": 3e-2, "seed": 1,
    }  # fmt: skip
    for word in words:
        options |= WAYS[word]
    if count == 1:
        options.pop("gradient_accumulation_steps", None)  # one rank shows what they all come to: whole batches
    if "resumed" in words:
        saved = "+".join("saved" if word == "resumed" else word for word in words)
        options["resume_from_checkpoint"] = str(output / saved / f"checkpoint-{SAVED}")
    size = PAIRS_A_STEP // count // options.get("gradient_accumulation_steps", 1)
    return TrainArguments(per_device_train_batch_size=size, **options)


def _evaluate(output: Path, name: str) -> None:
    found = evaluate(
        EvaluateArguments(
            model=str(run.BASE), adapter=str(output / name), data_file=str(output.parent / "data.jsonl"),
            num_beams=1, max_new_tokens=12, max_samples=5, per_device_eval_batch_size=2,
        )
    )  # fmt: skip
    if PartialState().is_main_process:
        result = {"scores": found.scores, "generations": found.generations, "arguments": asdict(found.arguments)}
        (output / name / "evaluation.json").write_text(json.dumps(result), "utf-8")


def _script(output: Path, options: dict[str, Any]) -> None:
    state, rate = PartialState(cpu=True), options.get("learning_rate", 3e-2)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(run.BASE)
    base = AutoModelForCausalLM.from_pretrained(run.BASE, dtype=torch.float32)
    options = {name: value for name, value in options.items() if name != "learning_rate"}
    model = prefix_peft.wrap(base, num_virtual_tokens=4, **options).train()
    if state.num_processes > 1:
        for module in model.modules():
            if isinstance(module, Trunk):
                fully_shard(module)
        for block in model.get_base_model().transformer.h:
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    texts = training_pairs(read_jsonl(output.parents[1] / "data.jsonl"))
    pairs = encode_pairs(texts, tokenizer, is_encoder_decoder=False, separator=run.SEPARATOR).examples
    padded = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=False)
    for step in range(STEPS):
        (batch,) = shared_batches(pairs[2 * step : 2 * step + 3], 3, padded)
        loss, _ = target_loss(model, batch, False)
        (loss * state.num_processes / 100).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(output))


@contextmanager
def sharded() -> Iterator[None]:
    """Inside, runs go through Accelerate's own FSDP2, which it leaves out on CPUs although gloo can do it."""
    original = place.find_accelerator

    def find_accelerator(mixed_precision: str | None) -> Accelerator:
        accelerator = original(mixed_precision)
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
        )
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        return accelerator

    place.find_accelerator = find_accelerator
    try:
        yield
    finally:
        place.find_accelerator = original


@contextmanager
def late() -> Iterator[None]:
    """The results are written some time after they could be."""
    original = results._write

    def write(*args: Any) -> None:
        time.sleep(LATE)
        original(*args)

    results._write = write
    try:
        yield
    finally:
        results._write = original


if __name__ == "__main__":
    main(sys.argv[1:])
