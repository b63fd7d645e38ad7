"""Load a base model, its tokenizer and a prefix, whichever kind of model it is."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import PartialState
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..untrusted import check_inside, read_json
from ..whole import write_text
from .launch import find_ranks

PROMPT_FILE = "prompt.json"  # how the sources of a prefix were written, beside its weights
NOTHING_RUNS = {"trust_remote_code": False}  # of what a repository brings along


def load_base(
    name: str, bits: int | None = None, dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model in eval mode, and its tokenizer, which knows how much the model can read.

    Its weights are in ``dtype``, but those of its linear maps in ``bits`` bits, 8 or 4, where that is asked for.

    Raises:
        ImportError: bitsandbytes, which quantises, is not installed.
    """
    config = AutoConfig.from_pretrained(name, **NOTHING_RUNS)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    held = getattr(torch, dtype)
    quantised = BitsAndBytesConfig(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=held
    )
    placed = {"quantization_config": quantised, "device_map": {"": PartialState().device}} if bits else {}
    model = auto.from_pretrained(name, dtype=held, use_safetensors=True, **placed, **NOTHING_RUNS).eval()
    tokenizer = AutoTokenizer.from_pretrained(name, **NOTHING_RUNS)
    limit = getattr(config, "max_position_embeddings", None)
    if limit:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return model, tokenizer


def load_prefix(
    name: str, adapter: str, bits: int | None = None, dtype: str = "float32"
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """A base model with a trained prefix, on this rank's device, and the tokenizer."""
    device = find_ranks().device
    model, tokenizer = load_base(name, bits, dtype)
    if bits is None:
        model.to(device)  # pyright: ignore[reportArgumentType]
    return PeftModel.from_pretrained(model, adapter), tokenizer


def remember_prompt(directory: Path, separator: str | None) -> None:
    """Write down how sources and targets were parted, so that nobody has to say it again."""
    write_text(directory / PROMPT_FILE, json.dumps({"separator": separator}) + "\n")


def _prompt_file(adapter: str) -> Path | None:
    """Where it lies: in a directory, or in a repository of the Hub."""
    if Path(adapter).is_dir():
        path = Path(adapter, PROMPT_FILE)
        return check_inside(adapter, path) if path.is_file() else None
    try:
        return Path(hf_hub_download(adapter, PROMPT_FILE))
    except LocalEntryNotFoundError as fault:
        raise ValueError(
            f"the separator that {adapter} was trained with lies on the Hub, which cannot be reached; say --separator."
        ) from fault
    except EntryNotFoundError:
        return None


def recall_separator(adapter: str, given: str | None) -> str | None:
    """The separator that the user gives, or else the one that the prefix was trained with."""
    path = None if given is not None else _prompt_file(adapter)
    if path is None:
        return given
    separator = read_json(path).get("separator")
    if not isinstance(separator, str | None):
        raise ValueError(f"{path} has separator={str(separator)[:100]}, which must be text; say --separator.")
    return separator
