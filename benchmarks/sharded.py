"""A training step whose weights two processes share out (FSDP2), as planned and as measured on a CPU."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from transformers import PretrainedConfig

from prefix_peft.planning.counting import bytes_of
from prefix_peft.planning.memory import bare, count, layers
from prefix_peft.planning.request import Request
from prefix_peft.planning.sharding import fsdp2
from prefix_peft.planning.trial import held, learner, optimizer_of, texts, train_step

from .allocated import allocated
from .memory import MIB, fresh_processes

RANKS = 2
NAME = f"llama, float32, FSDP2 on {RANKS} processes"


def planned(config: PretrainedConfig, request: Request) -> float:
    """MiB of one process."""
    return fsdp2(count(config, request), RANKS, request.torch_dtype).training / MIB


def measured(config: PretrainedConfig, request: Request) -> float:
    """MiB of the process that takes the most."""
    with TemporaryDirectory() as directory, fresh_processes(RANKS) as pool:
        store = Path(directory, "store").as_uri()
        ranks = [pool.submit(_on_rank, rank, store, config, request) for rank in range(RANKS)]
        return max(rank.result() for rank in ranks)


def _on_rank(rank: int, store: str, config: PretrainedConfig, request: Request) -> float:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    try:
        model = bare(config, request)
        learning = learner(model, request)
        for block in layers(model):  # as Accelerate does it
            fully_shard(block)
        fully_shard(model.get_input_embeddings())
        fully_shard([model.base_model.norm, model.get_output_embeddings()], reshard_after_forward=False)
        fully_shard(model)
        optimizer, batch = optimizer_of(learning), texts(model, request)
        train_step(learning, batch, optimizer, request)
        own = bytes_of(map(_own_part, held(learning, optimizer)))
        return (own + allocated(lambda: train_step(learning, batch, optimizer, request))) / MIB
    finally:
        dist.destroy_process_group()


def _own_part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
