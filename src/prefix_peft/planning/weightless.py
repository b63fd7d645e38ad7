"""A model without weights: shapes, dtypes and devices of all its tensors, and none of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

_aten = torch.ops.aten


class Weightless(FakeTensorMode):
    """Tensors made inside take no memory, whatever their size.

    Who asks for a number is told 1 (how many steps an optimizer took), and who asks for a truth, False: a mask is not
    all ones, as in a batch with padding. Two tensors are equal if they are one.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten._local_scalar_dense.default:
            return args[0].dtype != torch.bool and (1.0 if args[0].is_floating_point() else 1)
        if func is _aten.equal.default:
            return args[0] is args[1]
        if func is _aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
            with self:  # of mixtures of experts; torch knows its shapes, but in one dtype alone
                return func(*map(_in_bfloat16, args), **(kwargs or {})).to(args[0].dtype)
        return super().__torch_dispatch__(func, types, args, kwargs)


def _in_bfloat16(argument: Any) -> Any:
    floating = isinstance(argument, Tensor) and argument.is_floating_point()
    return argument.to(torch.bfloat16) if floating else argument


def read_config(name: str) -> PretrainedConfig:
    """A model's config: of a Hub repository, of a directory, or a JSON file. No weights need lie beside it."""
    if Path(name).suffix == ".json" and not Path(name).is_file():
        raise ValueError(f"there is no config {name}; name a JSON file, a directory that has a config.json, or an id.")
    return AutoConfig.from_pretrained(name)


def build(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The frozen model of this config, in evaluation mode. To be called inside `Weightless`."""
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0  # any will do
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_config(config, dtype=dtype).requires_grad_(False).eval()
