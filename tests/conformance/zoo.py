"""A tiny random model of every architecture in transformers' mappings of causal and of encoder-decoder models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from unittest import mock

import families
import sizes
import torch
import transformers
from sizes import BOS, PAD, RESERVED, VOCAB
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

MAPPINGS = {"causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
AUTO = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
EMBEDDING_STD = 0.3  # of tokens and heads, so that greedy tokens are distinct
PARAMETER_STD = 0.1  # of parameters that a family leaves at zero or uninitialised


@dataclass(frozen=True)
class Case:
    """One architecture: how a model of it is built and what text it reads."""

    task: str  # 'causal' or 'seq2seq'
    name: str  # the key of the auto mapping
    seed: int = 0  # of the weights

    def __str__(self) -> str:
        return f"{self.task}/{self.name}"

    @property
    def attends(self) -> bool:
        """Whether there is any attention, and so a place for a prefix."""
        return self.name not in families.ATTENTION_FREE

    @cached_property
    def is_encoder_decoder(self) -> bool:
        """Some seq2seq entries are decoders behind an audio tower, called like causal ones."""
        return self.task == "seq2seq" and bool(self.config().is_encoder_decoder)

    def config(self, window: int = sizes.WINDOW) -> PretrainedConfig:
        """The tiny config; sliding windows are this wide, which by default is more than any text here."""
        if self.name in families.PART_OF_A_MODEL:
            return families.music_decoder(families.PART_OF_A_MODEL[self.name][0])
        cls = CONFIG_MAPPING[self.name]
        fields = _fields(cls())
        fields = families.ENTRIES.get(self.name, dict)(fields)
        if self.task == "causal" and self.name in families.TOLD_TO_DECODE:
            fields["is_decoder"] = True
        config = cls(**fields)
        _narrow(config, window)
        return config

    def build(
        self, seed: int | None = None, attn_implementation: str | None = None, window: int = sizes.WINDOW
    ) -> PreTrainedModel:
        """A float32 model in eval mode whose tokens are distinct and which never stops early."""
        seed = self.seed if seed is None else seed
        options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        with warnings.catch_warnings(), _without_timm():
            warnings.simplefilter("ignore")
            config = self.config(window)
            torch.manual_seed(seed)
            if self.name in families.PART_OF_A_MODEL:
                cls = getattr(transformers, families.PART_OF_A_MODEL[self.name][1])
                model = cls._from_config(config, **options)
            else:
                model = AUTO[self.task].from_config(config, **options)
        model = model.float().eval()
        _fill(model, torch.Generator().manual_seed(1000 + seed))
        start = getattr(model.config, "decoder_start_token_id", None)
        model.generation_config = GenerationConfig(
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=None,
            decoder_start_token_id=BOS if start is None else start,
        )
        return model


def cases() -> list[Case]:
    """Every entry of both mappings but for those that cannot be built."""
    every = [Case(task, name) for task, names in MAPPINGS.items() for name in names]
    return [case for case in every if (case.task, case.name) not in families.NOT_BUILT]


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random ordinary tokens."""
    return torch.randint(5, VOCAB - RESERVED, shape, generator=torch.Generator().manual_seed(seed))


def _fields(default: PretrainedConfig) -> sizes.Fields:
    """Tiny fields for a config like ``default`` and for those inside it."""
    if default.model_type in families.LEFT_LARGE:
        return families.LEFT_LARGE[default.model_type]
    if default.model_type == "nemotron3_5_transcribe_audio":
        return families.nemo_audio(default)
    fields = sizes.shrink(default)
    for name in default.sub_configs:
        part = getattr(default, name, None)
        if isinstance(part, PretrainedConfig):
            fields[name] = type(part)(**_fields(part))
    fields |= families.FIELDS.get(default.model_type, {})
    return {name: value for name, value in fields.items() if value is not families.DROP}


def _narrow(config: PretrainedConfig, window: int) -> None:
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for name in sizes.WINDOWS:
            if isinstance(vars(part).get(name) if part is not None else None, int) and vars(part)[name]:
                setattr(part, name, window)


@contextmanager
def _without_timm() -> Iterator[None]:
    """gemma3n's vision tower comes from another package; text never enters it, so anything may stand there."""
    from transformers.models.gemma3n import modeling_gemma3n

    auto = modeling_gemma3n.AutoModel

    class NoVision:
        @staticmethod
        def from_config(config: PretrainedConfig, *args: object, **options: object) -> nn.Module:
            vision = "Vision" in type(config).__name__
            return nn.Identity() if vision else auto.from_config(config, *args, **options)

    with mock.patch.object(modeling_gemma3n, "AutoModel", NoVision):
        yield


@torch.no_grad()
def _fill(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Distinct tokens, and no parameter that is zero throughout or was never initialised."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and len(module.weight) >= 90]
    heads = [model.get_output_embeddings(), *getattr(model, "lm_heads", [])]
    weights = {id(layer.weight): layer.weight for layer in (*tables, *heads) if hasattr(layer, "weight")}
    for weight in weights.values():
        weight.copy_(torch.randn(weight.shape, generator=generator) * EMBEDDING_STD)
    for parameter in model.parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        garbage = not parameter.isfinite().all() or (parameter.numel() > 1 and parameter.abs().max() > 1e4)
        if garbage or not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * PARAMETER_STD)
