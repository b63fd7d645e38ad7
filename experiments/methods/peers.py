"""PEFT's other methods as PEFT has them: LoRA, prefix tuning and the prompts of LLaMA-Adapter."""

from __future__ import annotations

from typing import Any

from peft import AdaptionPromptConfig, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefix_peft.wrap import infer_task_type

from .settings import Settings
from .weights import layers_of

LORA_ALPHA, LORA_DROPOUT = 32, 0.1  # of Hu et al. for GPT-2 on E2E, WebNLG and DART


def add_lora(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """LoRA at the modules that PEFT chooses for the architecture, or else at all linear ones."""
    config = LoraConfig(
        task_type=infer_task_type(base), r=settings.rank, lora_alpha=LORA_ALPHA, lora_dropout=LORA_DROPOUT,
        target_modules=LORA_TARGETS.get(base.config.model_type, "all-linear"),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),
    )  # fmt: skip
    return get_peft_model(base, config)


def add_peft_prefix(base: PreTrainedModel, settings: Settings, **options: Any) -> PeftModel:
    """PEFT's flat prefix, which starts at random numbers. An encoder-decoder has it in the decoder alone."""
    config = PrefixTuningConfig(
        task_type=infer_task_type(base), num_virtual_tokens=settings.num_virtual_tokens,
        num_layers=len(layers_of(base.get_decoder())),  # PEFT would count those of the encoder
        **options,
    )  # fmt: skip
    return get_peft_model(base, config)


def add_peft_prefix_mlp(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """PEFT's prefix through its MLP."""
    return add_peft_prefix(base, settings, prefix_projection=True, encoder_hidden_size=settings.encoder_hidden_size)


def add_adaption_prompt(base: PreTrainedModel, settings: Settings) -> PeftModel:
    """Prompts at every layer, in a softmax of their own behind a gate that starts at zero; not for every family.

    PEFT lacks the LLaMA-Adapter's output projection of what they give in GPT-2.
    """
    config = AdaptionPromptConfig(
        task_type=infer_task_type(base), adapter_len=settings.num_virtual_tokens, adapter_layers=len(layers_of(base))
    )
    return get_peft_model(base, config)
