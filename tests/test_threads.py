"""Threads that serve different prefixes from one model, and adapters that come and go meanwhile."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peft
import pytest
import tiny
import torch

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.encoders import MLPEncoder

sys.path.insert(0, str(Path(__file__).parents[1]))

from drills import threads
from drills.threads import Churn, at_once, hurried, make_requests, prepared, while_running, write

FAMILIES = ["GPT-2", "Llama", "BART"]


@pytest.fixture(scope="module", params=FAMILIES)
def served(request):
    return prepared(threads.MODELS[request.param]())


@pytest.fixture(scope="module")
def calls(served):
    """Requests, and what each writes alone."""
    requests = make_requests(list(served.peft_config), 32)
    return requests, [write(served, request) for request in requests]


def differing(found, alone):
    return [i for i, (now, then) in enumerate(zip(found, alone, strict=True))
            if isinstance(now, Exception) or not torch.equal(now, then)]  # fmt: skip


def test_eight_threads_write_what_each_call_writes_alone(served, calls):
    requests, alone = calls
    assert len({tuple(tokens.flatten().tolist()) for tokens in alone}) > 10, "the prefixes matter"
    with hurried():
        assert differing(at_once(served, requests), alone) == []


def test_so_they_do_while_adapters_come_and_go(served, calls, tmp_path):
    served.save_pretrained(tmp_path, selected_adapters=["default"])
    requests, alone = (some[:24] for some in calls)
    churn = Churn(served, tmp_path)
    with hurried():
        found = while_running(churn.run, churn.stop, lambda: at_once(served, requests))
    assert churn.faults == [] and differing(found, alone) == []
    assert "loaded" not in served.peft_config


def test_the_comparison_would_see_a_mix_up(served):
    """With names that belong to the module instead of the call, as PEFT's own methods have it."""
    adapters = list(served.peft_config)
    requests = [r for r in make_requests(adapters, 48) if len(set(r.names)) == 1 and r.names[0] in adapters]
    alone = [write(served, request) for request in requests]

    def one(request):
        served.set_adapter(request.names[0])
        with torch.no_grad():
            return served.generate(
                input_ids=request.ids, attention_mask=torch.ones_like(request.ids), max_new_tokens=6, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip

    one_by_one = [one(request) for request in requests]
    assert differing(one_by_one, alone) == []
    with hurried(), ThreadPoolExecutor(8) as pool:
        assert differing(list(pool.map(one, requests)), alone) != []
    served.set_adapter("default")


@pytest.mark.parametrize("family", ["gpt2", "bart", "llama"])
def test_who_walks_over_the_modules_is_not_disturbed(family, tmp_path):
    """What a thread sees that has begun before an adapter comes or goes."""
    model = tiny.fill(prefix_peft.wrap(tiny.build(family), 3))
    model.save_pretrained(tmp_path)
    task_type = model.peft_config["default"].task_type
    layers = prefix_peft.layer.prefix_layers(model)
    changes = [
        lambda: model.load_adapter(tmp_path, "second"),
        lambda: model.add_adapter("third", PrefixConfig(num_virtual_tokens=2, task_type=task_type)),
        lambda: model.delete_adapter("third"),
        lambda: model.delete_adapter("second"),
    ]
    for change in changes:
        walks = [iter(layer.prefix_kv_encoder.items()) for layer in layers]
        walks += [iter(layer.config.items()) for layer in layers]
        for walk in walks:
            next(walk)
        change()
        for walk in walks:
            list(walk)  # RuntimeError, were it the one that changed
    attention = layers[0].get_base_layer()
    children = iter(attention._modules.items())
    next(children)
    model.unload()
    assert "prefix_kv" in dict(children) and "prefix_kv" not in attention._modules


def test_the_shift_of_positions_stays_while_another_adapter_comes():
    model = prefix_peft.wrap(tiny.build("gpt2"), 3, position_mode="shift")
    table = model.get_submodule("base_model.model.transformer.wpe")
    before = table.forward
    for name in ("second", "third"):
        model.add_adapter(name, PrefixConfig(num_virtual_tokens=2, position_mode="shift", task_type="CAUSAL_LM"))
        assert vars(table)["forward"] is before, "never taken off, not even for a moment"
    model.unload()
    assert "forward" not in vars(table)


def test_a_folded_prefix_that_another_thread_forgets_is_there(monkeypatch):
    model = prefix_peft.wrap(tiny.build("llama"), 3, prefix_projection=True, encoder_hidden_size=5).eval()
    encoder = next(module for module in model.modules() if isinstance(module, MLPEncoder))
    with torch.no_grad():
        expected = [tensor.clone() for tensor in encoder()]
        holds = type(encoder._kept).holds

        def forgotten(kept, parameters):
            encoder._kept = None  # what a thread does that trains
            return holds(kept, parameters)

        monkeypatch.setattr(type(encoder._kept), "holds", forgotten)
        assert all(torch.equal(now, then) for now, then in zip(encoder(), expected, strict=True))


def test_wrapping_one_model_leaves_others_alone():
    """A model is watched in the thread that wraps it, and in no other."""
    served, ids = prepared(threads.MODELS["Llama"]()), tiny.tokens(2, 6) % 20 + 3
    names, stop = ["gated", "mlp"], threading.Event()
    with torch.no_grad():
        expected = served(input_ids=ids, adapter_names=names).logits
        wrapped = []

        def wrap():
            while not stop.is_set():
                wrapped.append(prefix_peft.wrap(tiny.build("llama"), 3, init_text=None))

        def work():
            return [served(input_ids=ids, adapter_names=names).logits for _ in range(40)]

        with hurried():
            found = while_running(wrap, stop, work)
    assert wrapped and isinstance(wrapped[0], peft.PeftModel)
    assert all(torch.equal(logits, expected) for logits in found)
