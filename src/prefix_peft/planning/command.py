"""``prefix-peft inspect --plan``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

from tqdm.auto import tqdm
from transformers import PretrainedConfig

from .arguments import InspectArguments
from .memory import Memory, count
from .request import Request
from .sharding import STRATEGIES
from .table import one_device, several_devices, ways
from .weightless import read_config


def plan(arguments: InspectArguments) -> str:
    """What training and decoding take, as tables.

    Raises:
        ValueError: no such model, a model that has no place for a prefix, or texts that it cannot read.
    """
    request, devices = arguments.request(), arguments.num_processes
    counted = count_all(read_config(arguments.model), ways(request))
    asked = counted[request]
    parts = [describe(arguments.model, request, asked), one_device(counted, arguments.limit)]
    if devices > 1:
        shares = {name: STRATEGIES[name](asked, devices, request.torch_dtype) for name in arguments.strategies()}
        parts += [f"On {devices} devices, {request}:", several_devices(shares, arguments.limit)]
    return "\n\n".join(parts)


def count_all(config: PretrainedConfig, wanted: Iterable[Request]) -> dict[Request, Memory]:
    """What each takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers' to PEFT, which no user can do anything about
        return {way: count(config, way) for way in tqdm(wanted, desc="counting", unit="way", file=sys.stderr)}


def describe(model: str, request: Request, memory: Memory) -> str:
    """What the tables are about."""
    prefix = f"a prefix of {request.num_virtual_tokens}" + (" through an MLP" if request.prefix_projection else "")
    return (
        f"{model} with {prefix}, {memory.trained:,} trained numbers. Training on {request.batch_size} x "
        f"{request.sequence_length} tokens; decoding {request.max_new_tokens} tokens behind each."
    )
