"""Decoding remembers its last step: it is used, right, and given up as soon as anything is not as it was."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import build, fill_adapter, tokens
from torch import Tensor, nn
from transformers import DynamicCache

import prefix_peft
from prefix_peft import hook
from prefix_peft.layer import prefix_layers
from prefix_peft.step import again

PROMPT, LAYERS = 6, 3


@pytest.fixture
def model():
    wrapped = prefix_peft.wrap(build("llama"), num_virtual_tokens=3).eval()
    wrapped.add_adapter("other", replace(wrapped.peft_config["default"]))
    for seed, name in enumerate(("default", "other")):
        fill_adapter(wrapped, name, seed)
    return wrapped


@pytest.fixture
def used(monkeypatch):
    """How often the last step was of use, and how often not."""
    counts, again = {True: 0, False: 0}, hook.again

    def counted(*arguments):
        found = again(*arguments)
        counts[found is not None] += 1
        return found

    monkeypatch.setattr(hook, "again", counted)
    return counts


def step(model: nn.Module, ids: Tensor, cache: DynamicCache, **options: object) -> Tensor:
    return model(input_ids=ids, past_key_values=cache, **options).logits[:, -1]


@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_all_steps_but_the_first_ask_nothing_and_give_what_the_whole_text_gives(model, used, rows):
    ids, cache = tokens(rows, PROMPT + 4), DynamicCache()
    found = [step(model, ids[:, :PROMPT], cache)]
    found += [step(model, ids[:, i : i + 1], cache) for i in range(PROMPT, PROMPT + 4)]
    assert used == {True: 3 * LAYERS, False: 2 * LAYERS}  # the prompt and the first step ask
    whole = model(input_ids=ids).logits[:, PROMPT - 1 :]
    torch.testing.assert_close(torch.stack(found, 1), whole, atol=2e-6, rtol=1e-5)


def choose_another(model: nn.Module) -> None:
    model.set_adapter("other")


def switch_off(model: nn.Module) -> None:
    model.base_model.disable_adapter_layers()


def write_over(model: nn.Module) -> None:
    for layer in prefix_layers(model):
        layer.encoder("default").p_value.data.mul_(-1)


def put_elsewhere(model: nn.Module) -> None:
    for layer in prefix_layers(model):
        encoder = layer.encoder("default")
        encoder.p_value.data = -encoder.p_value.data


def replace_parameter(model: nn.Module) -> None:
    for layer in prefix_layers(model):
        encoder = layer.encoder("default")
        encoder.p_value = nn.Parameter(-encoder.p_value.detach())


def come_again(model: nn.Module) -> None:
    model.set_adapter("other")
    model.delete_adapter("default")
    model.add_adapter("default", replace(model.peft_config["other"]))
    model.set_adapter("default")


def join(model: nn.Module) -> None:
    for layer in prefix_layers(model):
        layer.config["default"].attention_form = "joined"


def hook_layer(model: nn.Module) -> None:
    for layer in prefix_layers(model):
        layer.register_forward_hook(lambda _, args, prefix: prefix._replace(value=-prefix.value))


def hook_encoder(model: nn.Module) -> None:
    for layer in prefix_layers(model):
        layer.encoder("default").register_forward_hook(lambda _, args, output: (output[0], -output[1]))


CHANGES = [
    choose_another, switch_off, write_over, put_elsewhere, replace_parameter, come_again, join, hook_layer,
    hook_encoder,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@torch.no_grad()
def test_a_change_between_two_steps_is_seen_at_once(model, used, monkeypatch, change: Callable[[nn.Module], None]):
    ids, cache = tokens(2, PROMPT + 3), DynamicCache()
    step(model, ids[:, :PROMPT], cache)
    for i in range(2):
        before = step(model, ids[:, PROMPT + i : PROMPT + i + 1], cache)
    change(model)
    cache.crop(-1)
    served = used[True]
    found = step(model, ids[:, PROMPT + 1 : PROMPT + 2], cache)
    assert change is write_over or used[True] == served  # what is written over is seen where it lies
    monkeypatch.setattr(hook, "again", lambda *_: None)
    cache.crop(-1)
    torch.testing.assert_close(found, step(model, ids[:, PROMPT + 1 : PROMPT + 2], cache), atol=2e-6, rtol=1e-5)
    assert change is join or (found - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_step_that_asks_for_something_else_is_not_served(model, used):
    ids, cache = tokens(2, PROMPT + 2), DynamicCache()
    step(model, ids[:, :PROMPT], cache)
    step(model, ids[:, PROMPT : PROMPT + 1], cache)
    asked = used[False]
    hidden = torch.ones(2, PROMPT + 2, dtype=torch.long)
    hidden[0, 0] = 0
    step(model, ids[:, PROMPT + 1 :], cache, attention_mask=hidden)
    cache.crop(-1)
    with torch.enable_grad():
        step(model, ids[:, PROMPT + 1 :], cache)
    cache.crop(-1)
    step(model, ids[:, PROMPT + 1 :], cache, adapter_names=["other", "default"])
    assert used[True] == 0
    assert used[False] == asked + 2 * LAYERS  # a call with names of its own does not even ask


@torch.no_grad()
def test_dropout_is_neither_remembered_nor_forgotten(monkeypatch):
    model = prefix_peft.wrap(build("llama"), num_virtual_tokens=3, prefix_dropout=0.5)
    ids, cache = tokens(2, PROMPT + 1), DynamicCache()

    def last(training: bool) -> Tensor:
        model.train(training)
        found = step(model, ids[:, PROMPT:], cache)
        cache.crop(-1)
        return found

    step(model.eval(), ids[:, :PROMPT], cache)
    last(training=True)
    without = last(training=False)
    assert not torch.equal(last(training=True), last(training=True)), "the whole prefix was remembered"
    monkeypatch.setattr(hook, "again", lambda *_: None)
    assert torch.equal(without, last(training=False)), "what dropout left of the prefix was remembered"


@torch.no_grad()
def test_a_deleted_prefix_is_let_go(model):
    ids, cache = tokens(2, PROMPT + 1), DynamicCache()
    step(model, ids[:, :PROMPT], cache)
    step(model, ids[:, PROMPT:], cache)
    gone = weakref.ref(prefix_layers(model)[0].encoder("default").p_key)
    model.set_adapter("other")
    model.delete_adapter("default")
    gc.collect()
    assert gone() is None


@torch.no_grad()
def test_a_prompt_is_causal_each_time(model):
    ids = tokens(2, PROMPT)
    first, second = (model(input_ids=ids, past_key_values=DynamicCache()).logits for _ in range(2))
    assert torch.equal(first, second)


@torch.no_grad()
def test_a_prefix_that_is_cast_at_each_step_is_not_remembered(used):
    model = prefix_peft.wrap(build("llama").to(torch.bfloat16), num_virtual_tokens=3).eval()
    ids, cache = tokens(2, PROMPT + 2), DynamicCache()
    step(model, ids[:, :PROMPT], cache)
    for i in range(2):
        step(model, ids[:, PROMPT + i : PROMPT + i + 1], cache)
    assert used == {True: 0, False: 3 * LAYERS}


@torch.no_grad()
def test_eager_attention_shows_its_weights_after_sdpa(model):
    ids, cache = tokens(2, PROMPT + 2), DynamicCache()
    step(model, ids[:, :PROMPT], cache)
    step(model, ids[:, PROMPT : PROMPT + 1], cache)
    model.set_attn_implementation("eager")
    found = model(input_ids=ids[:, PROMPT + 1 :], past_key_values=cache, output_attentions=True)
    assert all(weights.shape[-1] == PROMPT + 2 + 3 for weights in found.attentions)


@torch.no_grad()
def test_what_is_joined_or_long_is_not_remembered(used):
    for options in ({"num_virtual_tokens": 65}, {"num_virtual_tokens": 3, "attention_form": "joined"}):
        model = prefix_peft.wrap(build("llama"), **options).eval()
        ids, cache = tokens(2, PROMPT + 2), DynamicCache()
        step(model, ids[:, :PROMPT], cache)
        for i in range(2):
            step(model, ids[:, PROMPT + i : PROMPT + i + 1], cache)
    assert used[True] == 0


@pytest.mark.parametrize("options", [{"scaling": 0.5}, {"dropout": 0.1}, {"position_bias": torch.zeros(1)}], ids=str)
@torch.no_grad()
def test_other_options_are_another_question(model, options):
    ids, cache = tokens(2, PROMPT + 1), DynamicCache()
    step(model, ids[:, :PROMPT], cache)
    step(model, ids[:, PROMPT:], cache)
    layer = prefix_layers(model)[0]
    last: Any = layer.last_step
    query, key = torch.randn(last.shape), torch.randn(2, *last.key.shape[1:])
    same = {"scaling": last.scale, "dropout": 0.0}
    assert again(layer, "sdpa", query, key, key, None, same) is not None
    assert again(layer, "sdpa", query, key, key, None, same | options) is None
    half = query.bfloat16(), key.bfloat16(), key.bfloat16()
    assert again(layer, "sdpa", *half, None, same) is None


@torch.no_grad()
def test_tokens_that_are_frozen_are_not_remembered(used):
    model = prefix_peft.wrap(build("llama"), num_virtual_tokens=3, num_frozen_tokens=1).eval()
    ids, cache = tokens(2, PROMPT + 3), DynamicCache()
    found = [step(model, ids[:, :PROMPT], cache)]
    found += [step(model, ids[:, i : i + 1], cache) for i in range(PROMPT, PROMPT + 3)]
    torch.testing.assert_close(
        torch.stack(found, 1), model(input_ids=ids).logits[:, PROMPT - 1 :], atol=2e-6, rtol=1e-5
    )
    assert used[True] == 0
