"""Rows of one batch with different prefixes, of different lengths and none, against each row's own run."""

import threading

import pytest
import tiny
import torch

import prefix_peft
from prefix_peft import PrefixConfig

NAMES = ["long", "__base__", "default", "gated"]


def several(family):
    model = prefix_peft.wrap(tiny.build(family), 3)
    task = model.peft_config["default"].task_type
    model.add_adapter("long", PrefixConfig(num_virtual_tokens=6, task_type=task))
    model.add_adapter("gated", PrefixConfig(num_virtual_tokens=4, gate=True, task_type=task))
    if family == "gpt2":
        model.peft_config["long"].position_mode = "shift"
        prefix_peft.positions.place(model.get_base_model())
    return tiny.fill(model).eval()


def alone(model, name, run):
    if name == "__base__":
        with model.disable_adapter():
            return run()
    model.set_adapter(name)
    return run()


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_forward(family):
    model, given = several(family), tiny.inputs(family, batch=len(NAMES))
    together = model(**given, adapter_names=NAMES).logits
    for i, name in enumerate(NAMES):
        row = {key: value[i : i + 1] for key, value in given.items()}
        own = alone(model, name, lambda row=row: model(**row).logits)
        torch.testing.assert_close(together[i : i + 1], own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "bart", "t5"])
@torch.no_grad()
def test_generate(family, num_beams):
    model, ids = several(family), tiny.tokens(1, 6).expand(len(NAMES), -1)
    if family == "gemma3":  # which magnifies its embeddings, and is sure of its tokens whatever the prefix
        model.get_input_embeddings().weight.mul_(0.1)
    options = {"max_new_tokens": 6, "num_beams": num_beams, "do_sample": False}
    together = model.generate(input_ids=ids, adapter_names=NAMES, **options)
    rows = []
    for i, name in enumerate(NAMES):
        own = alone(model, name, lambda i=i: model.generate(input_ids=ids[i : i + 1], **options))
        assert torch.equal(together[i : i + 1], own), name
        rows.append(own)
    assert len({tuple(row[0].tolist()[-6:]) for row in rows}) > 1, "the prefixes must matter"


def test_impossible_names():
    model = several("llama")
    with pytest.raises(
        ValueError,
        match=r"adapter_names asks for \['nobody'\].* choose from \['default', 'long', 'gated', '__base__'\]",
    ):
        model(tiny.tokens(1, 4), adapter_names=["nobody"])
    with pytest.raises(ValueError, match="adapter_names has 2 names for a batch of 3 rows"):
        model(tiny.tokens(3, 4), adapter_names=["default", "long"])
    with pytest.raises(ValueError, match="'__base__' is the name of no adapter"):
        model.add_adapter("__base__", PrefixConfig(task_type="CAUSAL_LM"))
    assert list(model.peft_config) == ["default", "long", "gated"]


@torch.no_grad()
def test_threads_do_not_mix_their_prefixes():
    model, ids = several("llama"), tiny.tokens(1, 6)
    expected = {name: model(ids, adapter_names=[name]).logits for name in NAMES}
    wrong = []

    def serve(name):
        with torch.no_grad():
            for _ in range(10):
                if not torch.equal(model(ids, adapter_names=[name]).logits, expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=serve, args=(name,)) for name in NAMES * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
