"""A prefix of real tokens against the base model that reads these tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import families
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
    """Raise where text learns of the tokens in front of it by other ways than one key each at every site, with values.

    Then no prefix can stand for them. The bare model is asked, by watching and by changing what it attends to.
    """
    whole, changed = (torch.cat([part, text], dim=1) for part in (front, tokens(1, P, seed=8)))
    calls: list[_Call] = []
    with torch.no_grad(), _watching(calls):
        subject.logits(subject.bare, source, whole)
    assert not any(call.is_biased() for call in calls), "the attention adds a bias to its scores, and a prefix has none"
    more = [call for call in calls if call.key.shape[2] > call.query.shape[2] and not subject.encodes]
    assert not more, "attention to pieces that are made of several tokens of the text"
    first: dict[nn.Module, _Call] = {}
    again = [call for call in calls if first.setdefault(call.module, call) is not call]
    once = all(torch.equal(call.key, first[call.module].key) for call in again)
    assert once, "a module attends several times in one pass, each time to other keys"
    if not calls:  # attention that passes by the interface can be neither watched nor silenced there
        assert subject.case.name not in families.NEVER_EXACT, families.NEVER_EXACT[subject.case.name]
        return
    with torch.no_grad(), mock.patch.object(AttentionInterface, "get_interface", lambda *_: _silent):
        left, right = (subject.logits(subject.bare, source, ids)[:, P:] for ids in (whole, changed))
    assert torch.equal(left, right), "recurrent, convolutional or routed state also carries the tokens"


def _silent(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """Attention that sees nothing."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


class _Call(NamedTuple):
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    biases: list[Tensor]  # what is added to the scores: masks, and biases of positions

    def is_biased(self) -> bool:
        """Whether something is added that says more than who sees whom."""
        return any(bool(((bias != 0) & (bias > torch.finfo(bias.dtype).min / 2)).any()) for bias in self.biases)


@contextmanager
def _watching(calls: list[_Call]) -> Iterator[None]:
    get_interface = AttentionInterface.get_interface

    def watched(self: AttentionInterface, *names: Any) -> Any:
        attend = get_interface(self, *names)

        def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any) -> Any:
            added = (*mask, options.get("attention_mask"), options.get("position_bias"))
            biases = [bias for bias in added if isinstance(bias, Tensor) and bias.is_floating_point()]
            calls.append(_Call(module, query, key, value, biases))
            return attend(module, query, key, value, *mask, **options)

        return record

    with mock.patch.object(AttentionInterface, "get_interface", watched):
        yield


CHECKS = [real_tokens]
