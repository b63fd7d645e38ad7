"""Plan: what `prefix-peft inspect --plan` says that a training step takes, beside what one takes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial

import torch
from tqdm import tqdm
from transformers import BartConfig, GPT2Config, LlamaConfig, PretrainedConfig, T5Config

from prefix_peft.planning.counting import bytes_of
from prefix_peft.planning.memory import bare
from prefix_peft.planning.memory import count as counted
from prefix_peft.planning.request import Request
from prefix_peft.planning.trial import held, learner, optimizer_of, texts, train_step

from . import sharded
from .allocated import allocated
from .memory import MIB
from .rounds import Case, measure
from .settings import Settings
from .sides import MEASURED, OURS

PLANNED = f"{OURS}, planned"
HOW = """What `prefix-peft inspect --plan` counts on a model without weights, beside what a step of the real one takes:
forward, backward and optimizer on the first of `--steps`, weights and moments included. Measured is the most that the
allocator had given out at once: on a CPU as torch's profiler sees every allocation, those inside of kernels too, and on
a GPU `torch.cuda.max_memory_allocated`. In brackets, the plan over the measurement. The plan takes each mask for one
with padding, which where there is none costs it 1 or 2 %."""
WAYS = {
    "float32": {},
    "checkpointing": {"gradient_checkpointing": True},
    "MLP": {"prefix_projection": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, checkpointing": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "mixed precision bf16": {"mixed_precision": "bf16"},
    "every weight": {"every_weight": True},
}


def cases(settings: Settings, progress: tqdm) -> Iterator[Case]:
    """Every family in every way."""
    step = settings.steps[0]
    for family, config in families(settings).items():
        for way, options in WAYS.items():
            request = Request(step.batch, step.length, num_virtual_tokens=step.prefix, max_new_tokens=1, **options)
            trials = {
                MEASURED: partial(measured, config, request, settings.device),
                PLANNED: lambda config=config, request=request: counted(config, request).training / MIB,
            }
            yield measure(Case("plan", f"{family}, {way}", "MiB", MEASURED), trials, 1, progress, warm_up=False)
    if settings.device == "cpu":
        config, request = families(settings)["llama"], Request(step.batch, step.length, max_new_tokens=1)
        trials = {
            MEASURED: partial(sharded.measured, config, request),
            PLANNED: partial(sharded.planned, config, request),
        }
        yield measure(Case("plan", sharded.NAME, "MiB", MEASURED), trials, 1, progress, warm_up=False)


def count(settings: Settings) -> int:
    """How many rounds there will be."""
    return len(families(settings)) * len(WAYS) + (settings.device == "cpu")


def families(settings: Settings) -> dict[str, PretrainedConfig]:
    """Decoders and encoder-decoders, with rotary, learned and relative positions, of the size that is asked for."""
    width, layers, heads, inner = settings.width, settings.layers, settings.heads, settings.intermediate_size
    vocabulary = {"vocab_size": settings.vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vocabulary |= {"decoder_start_token_id": 0}
    return {
        "llama": LlamaConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
            num_key_value_heads=settings.key_value_heads, **vocabulary,
        ),
        "gpt2": GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_inner=inner, **vocabulary),
        "t5": T5Config(
            d_model=width, num_layers=layers, num_heads=heads, d_kv=width // heads, d_ff=inner, **vocabulary
        ),
        "bart": BartConfig(
            d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=inner,
            decoder_layers=layers, decoder_attention_heads=heads, decoder_ffn_dim=inner, **vocabulary,
        ),
    }  # fmt: skip


def measured(config: PretrainedConfig, request: Request, device: str) -> float:
    """MiB at the peak of a step of the real model."""
    torch.manual_seed(0)
    model = bare(config, request).to(device)
    learning = learner(model, request)
    optimizer = optimizer_of(learning)
    step = partial(train_step, learning, texts(model, request, device), optimizer, request)
    step()  # libraries take their workspace once
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) / MIB
    return (bytes_of(held(learning, optimizer)) + allocated(step)) / MIB
