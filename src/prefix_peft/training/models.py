"""Load a base model, its tokenizer and a prefix, whichever kind of model it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..whole import write_text
from .launch import find_ranks

PROMPT_FILE = "prompt.json"  # how the sources of a prefix were written, beside its weights


def load_base(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model in eval mode, in float32, and its tokenizer, which knows how much the model can read."""
    config = AutoConfig.from_pretrained(name)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    limit = getattr(config, "max_position_embeddings", None)
    if limit and not config.is_encoder_decoder:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return model, tokenizer


def load_prefix(name: str, adapter: str) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """A base model with a trained prefix, on this rank's device, and the tokenizer."""
    device = find_ranks().device
    model, tokenizer = load_base(name)
    return PeftModel.from_pretrained(model.to(device), adapter), tokenizer  # pyright: ignore[reportArgumentType]


def remember_prompt(directory: Path, separator: str | None) -> None:
    """Write down how sources and targets were parted, so that nobody has to say it again."""
    write_text(directory / PROMPT_FILE, json.dumps({"separator": separator}) + "\n")


def recall_separator(adapter: str, given: str | None) -> str | None:
    """The separator that the user gives, or else the one that the prefix was trained with."""
    path = Path(adapter, PROMPT_FILE)
    if given is not None or not path.is_file():
        return given
    return json.loads(path.read_text(encoding="utf-8"))["separator"]
