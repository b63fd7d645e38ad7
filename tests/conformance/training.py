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
    """Gradient checkpointing, enabled before or after wrapping, runs layers twice and changes no gradient."""
    _compare_checkpointed(subject, use_reentrant=False)


def checkpointing_reentrant(subject: Subject) -> None:
    """The same with ``use_reentrant=True``, for which the token embeddings are told to require gradients."""
    _compare_checkpointed(subject, use_reentrant=True)


def _compare_checkpointed(subject: Subject, use_reentrant: bool) -> None:
    expected, passes = _train_step(subject, _trainable(subject))
    for early in (False, True):
        actual, passes_now = _train_step(subject, _trainable(subject, early, use_reentrant=use_reentrant))
        assert passes_now > passes, "nothing is checkpointed"
        for name, gradient in expected.items():
            when = "before" if early else "after"
            assert_close(actual[name], gradient, f"another gradient, enabled {when} wrapping", tolerance=1e-5)


def _trainable(subject: Subject, early: bool = False, **checkpointing: bool) -> Any:
    """A model that trains its prefix or, bare, all but its token embeddings, as a frozen base has none that train."""
    base = subject.case.build()
    if checkpointing and early:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    model: Any = tiny.fill(prefix_peft.wrap(base, P)) if subject.wrapped else base
    if not subject.wrapped:
        base.get_input_embeddings().requires_grad_(False)
    if checkpointing and not early:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    if checkpointing and not (early and subject.wrapped):  # which PEFT sees to itself
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


CHECKS = [checkpointing, checkpointing_reentrant, save_load]
