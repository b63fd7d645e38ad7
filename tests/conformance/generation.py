"""Every way of generating against full forward passes without a cache, or against plain greedy generation."""

from __future__ import annotations

from typing import Any

import torch
from subject import NEW, Subject, assert_close, assert_same_tokens, check
from torch import Tensor


@check
def greedy(subject: Subject) -> None:
    """``generate`` writes what full forward passes without a cache find most likely."""
    prompt = subject.prompt()
    text = subject.begin(prompt)
    for _ in range(NEW):
        text = torch.cat([text, subject.logits(subject.model, prompt, text)[:, -1:].argmax(-1)], dim=1)
    assert_same_tokens(subject.continuation, text, "generate() and full forward passes write different tokens")
