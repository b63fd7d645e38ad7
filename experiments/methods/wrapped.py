"""Wrapped: a model inside a module that changes what goes in or what comes out."""

from __future__ import annotations

from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class Wrapped(nn.Module):
    """What the loop and the decoding ask of a model, passed on to the one inside."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    @property
    def base(self) -> PreTrainedModel:
        return cast("PreTrainedModel", self.model.get_base_model())

    @property
    def config(self) -> PretrainedConfig:
        return self.base.config

    @property
    def device(self) -> torch.device:
        return self.base.device
