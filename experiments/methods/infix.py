"""Infix-tuning (section 7.3 of the paper): [x; INFIX; y], trained keys and values that y sees and x does not.

Keys without a position stand beside those of the text in any order, so the infix is this library's prefix, hidden from
every token before the last of the prompt: that one predicts the first of y, and is the first to see it. An
encoder-decoder's x is read by its encoder; its infix is what the decoder's self- and cross-attention see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefix_peft.attention.terms import Prefix
from prefix_peft.data.batches import IGNORED
from prefix_peft.evaluation.loss import Loss
from prefix_peft.layer import prefix_layers

from .prefixes import add_prefix
from .settings import Settings
from .wrapped import Wrapped


def add_infix(base: PreTrainedModel, settings: Settings) -> nn.Module:
    """An infix at every attention layer that y passes through."""
    if base.config.is_encoder_decoder:
        return add_prefix(base, settings, sites=["decoder", "cross"])
    return Infix(add_prefix(base, settings))


def prompt_lengths(labels: Tensor) -> Tensor:
    """How many tokens of each row come before its first target, (B,), for labels (B, S)."""
    return (labels == IGNORED).int().cumprod(dim=1).sum(dim=1)


def telling_prompt_lengths(loss_of: Loss) -> Loss:
    """``loss_of``, which hands a decoder ``prompt_lengths`` beside the inputs."""

    def loss(model: nn.Module, batch: dict[str, Tensor], is_encoder_decoder: bool) -> tuple[Tensor, Tensor]:
        if not is_encoder_decoder:
            batch = batch | {"prompt_lengths": prompt_lengths(batch["labels"])}
        return loss_of(model, batch, is_encoder_decoder)

    return loss


class Infix(Wrapped):
    """A decoder whose prefix is hidden from the prompt, but for its last token."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__(model)
        self._first: int | Tensor = 0  # the first token that sees the infix: of all rows, or of each (B, 1)
        self._seeing: Tensor | None = None  # which tokens of this forward do, (1 or B, T); None: all
        self.base.register_forward_pre_hook(self._look, with_kwargs=True)
        for layer in prefix_layers(self.base):
            layer.register_forward_hook(self._hide)

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, prompt_lengths: Tensor | None = None, **options: Any
    ) -> Any:
        """As the base's, but for whole texts (B, S): x ends where ``labels``, or ``prompt_lengths`` (B,), say so.

        Raises:
            ValueError: neither is given.
        """
        with self._seen_from(_first_to_see(labels, prompt_lengths)):
            return self.model(input_ids=input_ids, labels=labels, **options)

    def generate(self, input_ids: Tensor, **options: Any) -> Any:
        """As the base's, for prompts (B, S) padded on the left."""
        with self._seen_from(input_ids.shape[1] - 1):
            return self.model.generate(input_ids=input_ids, **options)

    @contextmanager
    def _seen_from(self, first: int | Tensor) -> Iterator[None]:
        self._first = first
        try:
            yield
        finally:
            self._first, self._seeing = 0, None

    def _look(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Which tokens of this forward see the infix; they stand behind those in the cache."""
        tokens, cache = kwargs["input_ids"], kwargs.get("past_key_values")
        begin = 0 if cache is None else cache.get_seq_length()
        all_see = isinstance(self._first, int) and begin >= self._first
        places = torch.arange(begin, begin + tokens.shape[1], device=tokens.device)
        self._seeing = None if all_see else (places >= self._first).view(-1, tokens.shape[1])

    def _hide(self, layer: nn.Module, args: tuple[Any, ...], prefix: Prefix) -> Prefix:
        if self._seeing is None:
            return prefix
        return prefix._replace(visible=self._seeing[..., None].expand(-1, -1, prefix.key.shape[2]))


def _first_to_see(labels: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The last token of each row's prompt, (B, 1)."""
    if lengths is None:
        if labels is None:
            raise ValueError(
                "an infix stands between x and y: say where x ends by labels, or by prompt_lengths (B,); a loss that "
                "gives the model no labels is wrapped in METHODS['infix'].adapt_loss."
            )
        lengths = prompt_lengths(labels)
    return lengths[:, None] - 1
