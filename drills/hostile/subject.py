"""A tiny model with a prefix, the files that belong to it, and a look at all of it that sees any change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

P = 3
SIZES = {
    "vocab_size": 31, "hidden_size": 12, "intermediate_size": 9, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6, "max_position_embeddings": 64, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.arange(3, 17).view(2, 7)


def base_model() -> LlamaForCausalLM:
    """The same each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def fill(model: nn.Module, part: str) -> None:
    """Numbers that matter, in the parameters whose names have ``part``."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


class Look:
    """What a model is now: every number, module, hook and flag, and its adapters."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        self.frame = self._frame()
        self.logits = self._logits()

    def changed(self, closely: bool) -> str:
        """What is not as it was, in words; '' where all is. ``closely`` computes with it as well."""
        frame = self._frame()
        if frame != self.frame:
            return f"modules, hooks, flags or adapters differ: {sorted(frame ^ self.frame, key=str)[:3]}"
        now = self.model.state_dict()
        other = [key for key, tensor in self.tensors.items() if key not in now or not torch.equal(tensor, now[key])]
        if other:
            return f"{other[:3]} differ"
        return "the logits differ" if closely and not torch.equal(self._logits(), self.logits) else ""

    def _frame(self) -> set[Any]:
        modules: set[Any] = {
            (name, type(m), m.training, *map(id, m._forward_pre_hooks.values()), *map(id, m._forward_hooks.values()))
            for name, m in self.model.named_modules()
        }
        flags = {(name, p.requires_grad) for name, p in self.model.named_parameters()}
        return modules | flags | {("adapter", name) for name in getattr(self.model, "peft_config", {})}

    @torch.no_grad()
    def _logits(self) -> Tensor:
        return self.model(IDS).logits


def content(directory: Path, *names: str) -> list[bytes]:
    """Of these files."""
    return [(directory / name).read_bytes() for name in names]


def parsed(data: bytes) -> dict[str, Any]:
    """What a file says, by the standard library alone."""
    return json.loads(data.decode("utf-8"))
