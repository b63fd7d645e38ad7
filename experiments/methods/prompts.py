"""Prompt tuning (Lester et al. 2021), by PEFT: trained embeddings before the text.

This is the embedding-only ablation of the paper, too: what the layers see of the virtual tokens, they compute.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from peft.tuners.prompt_tuning import PromptTuningInit
from torch import Tensor
from transformers import PreTrainedModel

from prefix_peft.wrap import infer_task_type

from .settings import Settings
from .wrapped import Wrapped


def add_prompt(base: PreTrainedModel, settings: Settings) -> Prompted:
    """PEFT's own start: ``init_text``, or numbers drawn from N(0, 1)."""
    return _prompted(base, settings, "RANDOM" if settings.init_text is None else "TEXT")


def add_embeddings(base: PreTrainedModel, settings: Settings) -> Prompted:
    """The embeddings of random words to start with."""
    return _prompted(base, settings, "SAMPLE_VOCAB")


def _prompted(base: PreTrainedModel, settings: Settings, start: str) -> Prompted:
    text = settings.init_text if start == "TEXT" else None
    config = PromptTuningConfig(
        task_type=infer_task_type(base), num_virtual_tokens=settings.num_virtual_tokens,
        num_transformer_submodules=1,  # PEFT would make a second prompt for a decoder, and not use it
        prompt_tuning_init=PromptTuningInit(start), prompt_tuning_init_text=text,
        tokenizer_name_or_path=(settings.tokenizer_name_or_path or base.name_or_path) if text else None,
    )  # fmt: skip
    return Prompted(get_peft_model(base, config))


class Prompted(Wrapped):
    """PEFT's model, but its logits are those of the text, and padded prompts keep their positions."""

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        """As the base's; PEFT's logits (B, P + S, V) of a decoder lose those of the virtual tokens."""
        output = self.model(input_ids=input_ids, **inputs)
        if not self.config.is_encoder_decoder:
            output.logits = output.logits[:, -input_ids.shape[1] :]
        return output

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """As the base's, for prompts (B, S), which PEFT would let begin one position later for each padding token."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        base: Any = self.base
        virtual = self.model.get_prompt(len(input_ids)).to(base.dtype)
        text = base.get_input_embeddings()(input_ids)
        prompt = {} if self.config.is_encoder_decoder else {"input_ids": input_ids}  # to be returned, and not repeated
        return base.generate(
            **prompt, inputs_embeds=torch.cat([virtual, text], dim=1),
            attention_mask=torch.cat([mask.new_ones(virtual.shape[:2]), mask], dim=1), **options,
        )  # fmt: skip
