"""Attention sinks: the first virtual tokens stay as they started, in every way of training, saving and loading."""

import copy
import pickle

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_concatenate import ROUNDING, logits, with_two

import prefix_peft
from prefix_peft import PrefixConfig, initialize_kv_prefix_from_tokens
from prefix_peft.encoders import FlatEncoder

P, K = 5, 2
WEIGHTS = "adapter_model.safetensors"


def wrapped(family="llama", **options):
    return prefix_peft.wrap(tiny.build(family), P, **{"num_frozen_tokens": K} | options)


def whole(model):
    """All of P, by site and kind."""
    return {name: p.clone() for name, p in model.state_dict().items() if name.endswith((".p_key", ".p_value"))}


def train(model, family="llama", steps=3):
    """With all that moves a parameter: gradients, momentum and weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    given = tiny.inputs(family)
    labels = given.get("decoder_input_ids", given["input_ids"])
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(**given, labels=labels).loss.backward()
        optimizer.step()
    return optimizer


def assert_only_the_rest_moved(before, after):
    assert before.keys() == after.keys() and before
    for name in before:
        assert torch.equal(after[name][:, :K], before[name][:, :K]), name
        assert (after[name][:, K:] - before[name][:, K:]).abs().min() > 0, name


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bart", "t5"])
def test_the_first_tokens_stay_and_have_no_optimizer_state(family, gate):
    model = wrapped(family, gate=gate)
    if gate:  # what is shut has no gradient
        for name, parameter in model.named_parameters():
            if name.endswith("p_gate"):
                parameter.data.fill_(1.0)
    before = whole(model)
    optimizer = train(model, family)
    assert_only_the_rest_moved(before, whole(model))
    sizes = {state["exp_avg"].shape[1] for state in optimizer.state.values() if state["exp_avg"].dim() == 3}
    assert sizes == {P - K}
    trained, _ = model.get_nb_trainable_parameters()
    gates = sum(p.numel() for name, p in model.named_parameters() if name.endswith("p_gate"))
    assert trained == sum(p[:, K:].numel() for p in before.values()) + gates


@torch.no_grad()
def test_it_computes_what_a_prefix_without_frozen_tokens_does():
    model, free = wrapped(), prefix_peft.wrap(tiny.build("llama"), P)
    tiny.fill(free)
    peft.set_peft_model_state_dict(model, peft.get_peft_model_state_dict(free))
    given = tiny.inputs("llama")
    assert torch.equal(model.eval()(**given).logits, free.eval()(**given).logits)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_release_holds_p_and_what_is_frozen_stays_so(low_cpu_mem_usage, tmp_path):
    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert sorted({name.rpartition(".")[2] for name in tensors}) == ["p_key", "p_value"]
    assert {tensor.shape for tensor in tensors.values()} == {(2, P, 14)}
    again = peft.PeftModel.from_pretrained(
        tiny.build("llama"), tmp_path, is_trainable=True, low_cpu_mem_usage=low_cpu_mem_usage
    )
    before = whole(again)
    assert all(torch.equal(p, q) for p, q in zip(before.values(), whole(model).values(), strict=True))
    train(again)
    assert_only_the_rest_moved(before, whole(again))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_the_same_by_transformers_own_loader(tmp_path):
    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    again = tiny.build("llama")
    again.load_adapter(str(tmp_path), is_trainable=True)
    before = whole(again)
    assert all(torch.equal(p, q) for p, q in zip(before.values(), whole(model).values(), strict=True))
    train(again)
    assert_only_the_rest_moved(before, whole(again))


def test_copies_are_of_the_same_kind():
    model = wrapped()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = whole(twin)
        assert all(torch.equal(p, q) for p, q in zip(before.values(), whole(model).values(), strict=True))
        train(twin)
        assert_only_the_rest_moved(before, whole(twin))


def test_a_random_start_has_the_first_token_of_all_texts_first():
    model, text = wrapped(num_frozen_tokens=1), torch.tensor([tiny.BOS])
    sink = prefix_peft.wrap(tiny.build("llama"), 1)
    initialize_kv_prefix_from_tokens(sink, text)
    values = [name for name in whole(model) if name.endswith(".p_value")]  # keys are rotated by where P begins
    for name in values:
        torch.testing.assert_close(whole(model)[name][:, :1], whole(sink)[name], **ROUNDING)


def test_real_tokens_begin_with_those_that_stay():
    model, c = wrapped(), tiny.tokens(P, seed=7)
    assert initialize_kv_prefix_from_tokens(model, c) == 0
    free = prefix_peft.wrap(tiny.build("llama"), P)
    initialize_kv_prefix_from_tokens(free, c)
    before = whole(model)
    assert all(torch.equal(p, q) for p, q in zip(before.values(), whole(free).values(), strict=True))
    train(model)
    assert_only_the_rest_moved(before, whole(model))


@pytest.mark.parametrize("gate", [False, True])
def test_of_several_prefixes_all_that_is_frozen_stays_so(gate):
    model = with_two("llama", {"num_frozen_tokens": 1, "gate": gate}, {"num_frozen_tokens": 2})
    expected = logits(model, "llama", ["default", "second"])
    model.add_weighted_adapter(["default", "second"], adapter_name="both")
    torch.testing.assert_close(logits(model, "llama", "both"), expected, **ROUNDING)
    assert model.peft_config["both"].num_frozen_tokens == 3
    layer = next(module for module in model.modules() if isinstance(module, prefix_peft.layer.PrefixLayer))
    parts = [layer.encoder(name)()[0].clone() for name in ("default", "second")]
    model.set_adapter("both")
    train(model)
    expected = torch.cat([parts[0][:, :1], parts[1][:, :2]], dim=1)
    assert torch.equal(layer.encoder("both")()[0][:, :3], expected)


def test_frozen_tokens_at_some_sites_only_are_refused():
    model = with_two("llama", {"num_frozen_tokens": 1}, {"layers_to_transform": [1], "layers_pattern": "layers"})
    with pytest.raises(ValueError, match=r"prefixes have {'default': 1, 'second': 0} of them \(num_frozen_tokens\)"):
        model.add_weighted_adapter(["default", "second"], adapter_name="both")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"num_frozen_tokens": -1}, ValueError, "num_frozen_tokens must be at least 0, got -1"),
        ({"num_frozen_tokens": True}, TypeError, "num_frozen_tokens must be a whole number, got True"),
        ({"num_frozen_tokens": P}, ValueError, "num_frozen_tokens=5 leaves nothing to train of 5 virtual tokens"),
        (
            {"num_frozen_tokens": 2, "num_virtual_tokens_pattern": {"attn": 2}},
            ValueError,
            "num_frozen_tokens=2 leaves nothing to train of 2",
        ),
        ({"num_frozen_tokens": 1, "prefix_projection": True}, ValueError, "num_frozen_tokens=1 needs a flat prefix"),
    ],
)
def test_impossible_requests(options, kind, message):
    with pytest.raises(kind, match=message):
        PrefixConfig(**{"num_virtual_tokens": P} | options)


def test_without_frozen_tokens_nothing_is_in_two_parts():
    encoders = [m for m in prefix_peft.wrap(tiny.build("llama"), P).modules() if isinstance(m, FlatEncoder)]
    assert {type(encoder) for encoder in encoders} == {FlatEncoder} and not any(list(e.buffers()) for e in encoders)
