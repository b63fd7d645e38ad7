"""What is compared: the same random Llama bare, with PEFT's methods, and with ours."""

from __future__ import annotations

import copy
from functools import partial

import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from prefix_peft import PrefixConfig
from prefix_peft.attention.attend import FORMS

from .settings import Settings

BARE, PEFT, LORA, OURS = "bare model", "PEFT prefix tuning", "PEFT LoRA", "prefix-peft"
MEASURED = "measured"  # beside what was planned
ORDER = (BARE, MEASURED, PEFT, LORA, OURS)
TASK = "CAUSAL_LM"


def configs(length: int, **options: object) -> dict[str, PeftConfig | None]:
    """Every side's configuration, for prefixes of ``length``; ``options`` are those of both kinds of prefix."""
    ours = partial(PrefixConfig, task_type=TASK, num_virtual_tokens=length, **options)
    return {
        BARE: None,
        PEFT: PrefixTuningConfig(task_type=TASK, num_virtual_tokens=length, **options),
        LORA: LoraConfig(task_type=TASK, r=8),
        OURS: ours(),
        **{f"{OURS}, {form}": ours(attention_form=form) for form in FORMS if form != "auto"},
    }


def build(settings: Settings) -> LlamaForCausalLM:
    """The bare model: frozen, random, and it never stops early."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        attn_implementation="sdpa",
    )
    with torch.device(settings.device):
        model = LlamaForCausalLM(config).to(getattr(torch, settings.dtype))
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1)
    return model.requires_grad_(False).eval()


def twin(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Another model of the same weights, which are shared: no side is slower for having its own in no cache."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def attach(model: LlamaForCausalLM, config: PeftConfig | None) -> nn.Module:
    """A side: a twin of ``model``, wrapped, in evaluation mode."""
    return (twin(model) if config is None else get_peft_model(twin(model), copy.deepcopy(config))).eval()


def tokens(settings: Settings, batch: int, length: int) -> torch.Tensor:
    """Random tokens, none of them padding."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, settings.vocabulary, (batch, length), generator=generator).to(settings.device)
