"""What must hold in one forward pass and its gradients."""

from __future__ import annotations

import tiny
import torch
from subject import LONG, WINDOW, NotApplicable, Subject, assert_close, has_window
from torch import Tensor, nn

import prefix_peft


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


def gradients(subject: Subject) -> None:
    """In training, every prefix parameter has a finite gradient that is not zero, and none of the base has one."""
    model = subject.build().train()
    subject.loss(model).backward()
    named = dict(model.named_parameters())
    trained = (
        tiny.prefix_parameters(model)
        if subject.wrapped
        else {"the token table": next(model.get_input_embeddings().parameters())}
    )
    for name, parameter in trained.items():
        assert parameter.grad is not None, f"no gradient at a prefix ({name})"
        assert parameter.grad.isfinite().all(), f"a gradient is not finite ({name})"
        assert parameter.grad.any(), f"a gradient is zero ({name})"
    if subject.wrapped:
        stray = [name for name, parameter in named.items() if name not in trained and parameter.grad is not None]
        assert not stray, f"parameters of the base have gradients ({stray[:3]})"


def mask_4d(subject: Subject) -> None:
    """A caller's own additive causal mask (B, 1, T, T) changes nothing, and is not changed itself."""
    causal = _additive(_causal(subject))
    assert_close(_masked(subject, causal), _masked(subject, None), "a causal 4-D mask changes the logits")


def mask_4d_boolean(subject: Subject) -> None:
    """A boolean one that hides a token means what an additive one does."""
    mask = _causal(subject)
    mask[:, :, 2:, 1] = False
    assert_close(_masked(subject, mask), _masked(subject, _additive(mask)), "a boolean 4-D mask means something else")


def _causal(subject: Subject) -> Tensor:
    rows, length = subject.text(subject.prompt()).shape
    return torch.ones(rows, 1, length, length, dtype=torch.bool).tril()


def _additive(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


def _masked(subject: Subject, mask: Tensor | None) -> Tensor:
    """The logits behind this mask, which must come out of it as it was."""
    prompt, given = subject.prompt(), None if mask is None else mask.clone()
    name = "decoder_attention_mask" if subject.encodes else "attention_mask"
    with torch.no_grad():
        logits = subject.logits(subject.model, prompt, subject.text(prompt), **{} if mask is None else {name: given})
    assert mask is None or torch.equal(given, mask), "the caller's mask was written into"
    return logits


def implementations(subject: Subject) -> None:
    """eager, sdpa and flex attention, as far as they agree without a prefix, give the same logits."""
    names = _agreeing_implementations(subject)
    if len(names) < 2:
        raise NotApplicable("has one implementation only")
    first, *others = (_logits_by(subject, subject.build(attn_implementation=name)) for name in names)
    for name, actual in zip(names[1:], others, strict=True):
        assert_close(actual, first, f"{names[0]} and {name} give different logits")


def _agreeing_implementations(subject: Subject) -> list[str]:
    """Those with which the bare model runs and gives the logits that it has with the first of them."""
    found: dict[str, Tensor] = {}
    for name in ("eager", "sdpa", "flex_attention"):
        try:
            found[name] = _logits_by(subject, subject.case.build(attn_implementation=name))
            assert_close(found[name], next(iter(found.values())), "another implementation")
        except Exception:  # whatever the family says to what it does not support
            found.pop(name, None)
    return list(found)


def _logits_by(subject: Subject, model: nn.Module) -> Tensor:
    prompt = subject.prompt()
    with torch.no_grad():
        return subject.logits(model, prompt, subject.text(prompt))


def half_precision(subject: Subject) -> None:
    """In bfloat16 and float16 the forward pass runs and stays finite."""
    prompt = subject.prompt()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.no_grad():
            logits = subject.logits(subject.build(dtype=dtype), prompt, subject.text(prompt))
        assert logits.isfinite().all(), f"logits in {str(dtype).removeprefix('torch.')} are not finite"


def sliding_window(subject: Subject) -> None:
    """Behind a text that is longer than its window, the last token still sees the prefix at every site."""
    if not has_window(subject):
        raise NotApplicable("has no sliding window")
    if not subject.wrapped:
        return
    model, prompt = subject.build(window=WINDOW), subject.prompt(rows=1, length=LONG)
    subject.logits(model, prompt, subject.text(prompt, length=LONG))[:, -1].float().logsumexp(-1).sum().backward()
    for name, parameter in tiny.prefix_parameters(model).items():
        seen = parameter.grad is not None and bool(parameter.grad.any())
        assert seen, f"the prefix has left a sliding window ({name})"


CHECKS = [refusal, wraps, gradients, mask_4d, mask_4d_boolean, sliding_window, implementations, half_precision]
