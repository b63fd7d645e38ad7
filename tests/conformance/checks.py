"""What must hold in one forward pass and its gradients."""

from __future__ import annotations

import tiny
import torch
from subject import NotApplicable, Subject, check

import prefix_peft
from prefix_peft.sites import token_table


@check
def refusal(subject: Subject) -> None:
    """A model without attention has no place for a prefix, and is refused by name."""
    if subject.case.attends:
        raise NotApplicable("has attention")
    name = type(subject.bare).__name__
    try:
        prefix_peft.wrap(subject.bare)
    except ValueError as error:
        assert f"{name} cannot be served: no attention" in str(error), f"the refusal says too little ({error})"
        return
    raise AssertionError("wrap() accepts a model without attention")


@check
def wraps(subject: Subject) -> None:
    """The default config wraps. The prefix changes the logits; switched off, they are the base model's to the bit."""
    prompt = subject.prompt()
    text = subject.text(prompt)
    with torch.no_grad():
        expected = subject.logits(subject.bare, prompt, text)
        assert expected.isfinite().all(), "logits are not finite"
        if not subject.wrapped:
            return
        actual = subject.logits(subject.model, prompt, text)
        assert actual.shape == expected.shape, f"logits changed their shape (to {tuple(actual.shape)})"
        assert actual.isfinite().all(), "logits behind the prefix are not finite"
        assert (actual - expected).abs().max() > 1e-3, "the prefix changes nothing"
        with subject.model.disable_adapter():
            assert torch.equal(subject.logits(subject.model, prompt, text), expected), "a disabled prefix leaves traces"


@check
def gradients(subject: Subject) -> None:
    """Every prefix parameter has a finite gradient that is not zero, and no parameter of the base has one."""
    model = subject.build()
    subject.loss(model).backward()
    named = dict(model.named_parameters())
    trained = tiny.prefix_parameters(model) if subject.wrapped else {"the token table": token_table(model)}
    for name, parameter in trained.items():
        assert parameter.grad is not None, f"no gradient at a prefix ({name})"
        assert parameter.grad.isfinite().all(), f"a gradient is not finite ({name})"
        assert parameter.grad.any(), f"a gradient is zero ({name})"
    if subject.wrapped:
        stray = [name for name, parameter in named.items() if name not in trained and parameter.grad is not None]
        assert not stray, f"parameters of the base have gradients ({stray[:3]})"
