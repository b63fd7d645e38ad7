"""What a check is given: one architecture, with a prefix or bare, and the few ways in which checks call its models."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import tiny
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from zoo import Case, tokens

import prefix_peft

P = 5  # virtual tokens
NEW = 10  # tokens to generate
WINDOW, LONG = 6, 40  # a sliding window, and a text that is much longer
TOLERANCE = 1e-4  # of the largest logit: float32 rounds to 6e-8, through sums of up to a hundred terms and six layers


class NotApplicable(Exception):
    """The architecture has nothing that the check is about."""


class Subject:
    """Models of one architecture. Checks that fail with a prefix are run again without one, on the same builds."""

    def __init__(self, case: Case, *, wrapped: bool) -> None:
        self.case, self.wrapped = case, wrapped
        self.encodes = case.is_encoder_decoder

    def build(self, *, dtype: torch.dtype = torch.float32, num_virtual_tokens: int = P, **options: Any) -> nn.Module:
        """A model in eval mode, behind a prefix that matters or bare."""
        base = self.case.build(**options).to(dtype)
        return tiny.fill(prefix_peft.wrap(base, num_virtual_tokens)).eval() if self.wrapped else base

    @cached_property
    def model(self) -> Any:
        """The model that checks share; they leave it as it is."""
        return self.build()

    @cached_property
    def bare(self) -> PreTrainedModel:
        """The same without a prefix, but frozen too: that alone makes some models take other kernels."""
        return self.case.build().requires_grad_(False)

    def accepts(self, name: str) -> bool:
        """Whether the model's forward pass has an argument of this name."""
        return name in inspect.signature(self.bare.forward).parameters

    def prompt(self, rows: int = 2, length: int = 7, seed: int = 0) -> Tensor:
        """What ``generate`` is asked with (rows, length): a text to go on with, or one to encode."""
        return tokens(rows, length, seed=seed)

    def text(self, prompt: Tensor, length: int = 6) -> Tensor:
        """What the decoder reads in a forward pass: the prompt itself, or a text beside the encoded one."""
        return tokens(len(prompt), length, seed=1) if self.encodes else prompt

    def begin(self, prompt: Tensor) -> Tensor:
        """What ``generate`` lets the decoder read first."""
        if not self.encodes:
            return prompt
        return prompt.new_full((len(prompt), 1), self.bare.generation_config.decoder_start_token_id)

    def logits(self, model: nn.Module, prompt: Tensor, text: Tensor, **options: Any) -> Tensor:
        """(rows, length of the text, V), without a cache, with which FSMT would look ahead."""
        inputs = {"input_ids": prompt, "decoder_input_ids": text} if self.encodes else {"input_ids": text}
        uncached = {"use_cache": False} if self.accepts("use_cache") else {}
        return model(**inputs, **uncached, **options).logits

    def loss(self, model: nn.Module) -> Tensor:
        """Mean negative log-likelihood of a text."""
        prompt = self.prompt()
        text = self.text(prompt)
        scores = self.logits(model, prompt, text).float().log_softmax(-1)[:, :-1]
        return -scores.gather(-1, text[:, 1:, None]).mean()

    def generate(self, model: Any = None, prompt: Tensor | None = None, **options: Any) -> Any:
        """Greedy by default: the sequences as ``generate`` returns them."""
        inputs = {} if "inputs_embeds" in options else {"input_ids": self.prompt() if prompt is None else prompt}
        settings = {"max_new_tokens": NEW, "do_sample": False} | options
        return (self.model if model is None else model).generate(**inputs, **settings)

    @cached_property
    def continuation(self) -> Tensor:
        """What plain ``generate`` returns for the plain prompt; ``greedy`` holds it against forward passes."""
        return self.generate()


def has_window(subject: Subject) -> bool:
    """Whether a narrow window changes what a long text means, so that there is one."""
    prompt = subject.prompt(rows=1, length=LONG)
    text = subject.text(prompt, length=LONG)
    with torch.no_grad():
        models = subject.bare, subject.case.build(window=WINDOW)
        wide, narrow = (subject.logits(model, prompt, text)[:, -1] for model in models)
    return not torch.allclose(wide, narrow, atol=1e-5)


def assert_close(actual: Tensor, expected: Tensor, complaint: str, tolerance: float = TOLERANCE) -> None:
    """Equal up to ``tolerance`` of the largest number expected."""
    assert actual.shape == expected.shape, f"{complaint} (shape {tuple(actual.shape)}, not {tuple(expected.shape)})"
    difference = float((actual - expected).abs().max())
    allowed = tolerance * float(expected.abs().max().clamp_min(1.0))
    assert difference <= allowed, f"{complaint} (by {difference:.2g})"


def assert_same_tokens(actual: Tensor, expected: Tensor, complaint: str) -> None:
    """Equal, token by token."""
    same = actual.shape == expected.shape and torch.equal(actual, expected)
    assert same, f"{complaint} ({actual.tolist()}, not {expected.tolist()})"
