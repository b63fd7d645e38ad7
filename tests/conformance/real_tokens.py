"""A prefix of real tokens against the base model that reads these tokens."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from subject import P, Subject, assert_close
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface
from zoo import tokens

import prefix_peft


def real_tokens(subject: Subject) -> None:
    """Behind the keys and values of real tokens the decoder has the logits it has behind the tokens themselves."""
    source, front, text = subject.prompt(1, P), tokens(1, P, seed=7), tokens(1, 6, seed=3)
    with torch.no_grad():
        expected = subject.logits(subject.bare, source, torch.cat([front, text], dim=1))[:, P:]
    if not subject.wrapped:
        return _keys_and_values_say_it_all(subject, source, front, text)
    model = prefix_peft.wrap(subject.case.build(), P, **({"sites": ["decoder"]} if subject.encodes else {}))
    if subject.encodes:
        prefix_peft.initialize_kv_prefix_from_tokens(model, source, decoder_input_ids=front)
    else:
        prefix_peft.initialize_kv_prefix_from_tokens(model, front)
    with torch.no_grad():
        actual = subject.logits(model.eval(), source, text)
    assert_close(actual, expected, "a prefix of real tokens is not these tokens")


def _keys_and_values_say_it_all(subject: Subject, source: Tensor, front: Tensor, text: Tensor) -> None:
    """Raise where text learns of the tokens in front of it by other ways than their keys and values.

    Then no prefix of keys and values can stand for them. The bare model is asked, by changing what it can see.
    """
    other = tokens(1, P, seed=8)
    whole, changed = (torch.cat([part, text], dim=1) for part in (front, other))
    with torch.no_grad():
        with mock.patch.object(AttentionInterface, "get_interface", lambda *_: _silent):
            left, right = (subject.logits(subject.bare, source, ids)[:, P:] for ids in (whole, changed))
        assert torch.equal(left, right), "recurrent, convolutional or routed state also carries the tokens"
        assert not _bias_of_positions(subject, source, whole), "the attention adds a bias for each pair of positions"
        if not subject.encodes and subject.accepts("position_ids"):
            here, there = (
                subject.logits(
                    subject.bare, source, whole, position_ids=torch.arange(start, start + whole.shape[1])[None]
                )
                for start in (0, 3)
            )
            assert_close(there, here, "the logits change with the place at which the text begins")


def _silent(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Attention that sees nothing."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _bias_of_positions(subject: Subject, source: Tensor, text: Tensor) -> bool:
    """Whether what is added to the scores has more to say than who sees whom."""
    found = []
    get_interface = AttentionInterface.get_interface

    def watched(self: AttentionInterface, *names: Any) -> Any:
        attend = get_interface(self, *names)

        def record(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any = None, **options: Any
        ) -> Any:
            for bias in (mask, options.get("attention_mask"), options.get("position_bias")):
                if isinstance(bias, Tensor) and bias.is_floating_point():
                    found.append(bool(((bias != 0) & (bias > torch.finfo(bias.dtype).min / 2)).any()))
            return attend(module, query, key, value, mask, **options)

        return record

    with mock.patch.object(AttentionInterface, "get_interface", watched):
        subject.logits(subject.bare, source, text)
    return any(found)


CHECKS = [real_tokens]
