"""Checkpointed training; saving and loading."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file
from subject import P, Subject, assert_close
from torch import Tensor, nn

import prefix_peft
from prefix_peft.layer import prefix_layers


def checkpointing(subject: Subject) -> None:
    """Gradient checkpointing, of either kind and enabled at either time, runs layers twice and changes no gradient."""
    expected, passes = _train_step(subject, subject.build())
    for reentrant in (True, False):
        for early in (False, True):
            model = _checkpointed(subject, reentrant, early)
            actual, passes_now = _train_step(subject, model)
            kind = f"use_reentrant={reentrant}, enabled {'before' if early else 'after'} wrapping"
            assert passes_now > passes, f"nothing is checkpointed with {kind}"
            for name, gradient in expected.items():
                assert_close(actual[name], gradient, f"another gradient with {kind}", tolerance=1e-5)


def _checkpointed(subject: Subject, reentrant: bool, early: bool) -> Any:
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    if early and subject.wrapped:
        base = subject.case.build()
        base.gradient_checkpointing_enable(**options)
        return tiny.fill(prefix_peft.wrap(base, P))
    model: Any = subject.build()
    model.gradient_checkpointing_enable(**options)
    if subject.wrapped:
        model.enable_input_require_grads()
    return model


def _train_step(subject: Subject, model: Any) -> tuple[dict[str, Tensor], int]:
    """The loss and the gradients of what trains, and how many modules ran for them."""
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        torch.manual_seed(0)
        loss = subject.loss(model.train())
        loss.backward()
    finally:
        handle.remove()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return {"loss": loss.detach(), **gradients}, passes


def save_load(subject: Subject) -> None:
    """A saved prefix gives a new base the same logits to the bit; its file holds P·G·(D_k + D_v) numbers a site."""
    prompt = subject.prompt()
    text = subject.text(prompt)
    with torch.no_grad(), TemporaryDirectory() as directory:
        expected = subject.logits(subject.bare, prompt, text)
        assert torch.equal(subject.logits(subject.case.build().requires_grad_(False), prompt, text), expected), (
            "two models of the same weights have different logits"
        )
        if not subject.wrapped:
            return
        subject.model.save_pretrained(directory)
        loaded = PeftModel.from_pretrained(subject.case.build(), directory).eval()
        actual, expected = (subject.logits(model, prompt, text) for model in (loaded, subject.model))
        assert torch.equal(actual, expected), "a loaded prefix gives other logits"
        written = sum(tensor.numel() for tensor in load_file(Path(directory, "adapter_model.safetensors")).values())
    sites = [layer.site for layer in prefix_layers(subject.model)]
    numbers = sum(P * site.num_key_value_heads * (site.key_dim + site.value_dim) for site in sites)
    assert written == numbers, f"the file holds more or less than the prefix ({written} numbers, not {numbers})"


CHECKS = [checkpointing, save_load]
