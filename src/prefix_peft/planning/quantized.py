"""Stand-ins for the linear layers of bitsandbytes: they take the memory that its 8-bit and 4-bit layers take.

What its autograd functions (0.50) make and keep: an 8-bit product keeps its input for the backward pass even where the
weight is frozen, a 4-bit product does not. Both make a whole weight in half precision where a gradient passes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

BLOCK = 64  # weights to each float32 scale, in 4 bits


class QuantizedLinear(nn.Module):
    """A linear layer (n -> m) whose frozen weight has 8 or 4 bits a number. It computes nothing that means anything."""

    def __init__(self, weight: Tensor, outputs: int, bias: Tensor | None, bits: int) -> None:
        super().__init__()
        scales = outputs if bits == 8 else -(-weight.numel() // BLOCK)
        self.register_buffer("packed", torch.empty(weight.numel() * bits // 8, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.float32))
        self.shape: tuple[int, int] = (outputs, weight.numel() // outputs)
        self.bits: int = bits
        self.bias: Tensor | None = bias

    def forward(self, input: Tensor) -> Tensor:
        output: Any = _Product.apply(input, self.shape, self.bits)
        return output if self.bias is None else output + self.bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, shape: tuple[int, int], bits: int) -> Tensor:
        ctx.shape = shape
        if bits == 8:
            ctx.input = input  # as bitsandbytes does
            input.half().to(torch.int8)
            return input.new_empty(*input.shape[:-1], shape[0])
        return input @ input.new_empty(shape).T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad @ grad.new_empty(ctx.shape), None, None


def quantize(model: PreTrainedModel, bits: int) -> None:
    """Put the stand-ins where transformers puts bitsandbytes' layers: at every linear map but the output layer."""
    kept = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, Conv1D)) and should_convert_module(name, kept):
            outputs = module.nf if isinstance(module, Conv1D) else module.out_features
            model.set_submodule(name, QuantizedLinear(module.weight, outputs, module.bias, bits))
