"""Several prefixes as one do what they do side by side."""

import peft
import pytest
import tiny
import torch

import prefix_peft
from prefix_peft import PrefixConfig, initialize_kv_prefix_from_tokens

ROUNDING = {"atol": 2e-5, "rtol": 0.0}  # the same sums, in float32
THEIRS = {  # of the second prefix, beside a flat one of 3 at all sites
    "flat": {},
    "through an MLP": {"prefix_projection": True, "encoder_hidden_size": 8},
    "gated": {"gate": True},
    "of several lengths": {"num_virtual_tokens_pattern": {r"layers\.1": 2, r"layers\.2.*self_attn": 7}},
    "at some sites": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "with dropout": {"prefix_dropout": 0.5},
}


def config(**options):
    return PrefixConfig(**{"num_virtual_tokens": 3} | options)


def with_two(family, first=(), second=()):
    model = prefix_peft.wrap(tiny.build(family), 3, **dict(first))
    task = model.peft_config["default"].task_type
    model.add_adapter("second", config(**{"num_virtual_tokens": 4, "task_type": task} | dict(second)))
    return tiny.fill(model).eval()


@torch.no_grad()
def logits(model, family, adapters):
    model.set_adapter(adapters)
    return model(**tiny.inputs(family)).logits


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("family", ["llama", "bart"])
def test_one_prefix_does_what_two_do_side_by_side(family, theirs, swapped, tmp_path):
    model = with_two(family, *({}, THEIRS[theirs])[:: -1 if swapped else 1])
    adapters = ["default", "second"]
    expected, alone = logits(model, family, adapters), logits(model, family, "second")
    model.add_weighted_adapter(adapters, adapter_name="both")
    assert model.active_adapters == ["second"], "as before"
    torch.testing.assert_close(logits(model, family, "both"), expected, **ROUNDING)
    assert (expected - alone).abs().max() > 0.1
    assert torch.equal(logits(model, family, "second"), alone)

    model.save_pretrained(tmp_path, selected_adapters=["both"])
    loaded = peft.PeftModel.from_pretrained(tiny.build(family), tmp_path / "both").eval()
    torch.testing.assert_close(logits(loaded, family, "default"), expected, **ROUNDING)


def test_it_may_be_trained_on():
    model = with_two("llama", {"gate": True})
    model.add_weighted_adapter(["default", "second"], [1.0, 1], "both", combination_type="cat")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(".default." in name for name in trained), "the new one waits until it is set"
    model.set_adapter("both")
    model(**tiny.inputs("llama"), labels=tiny.inputs("llama")["input_ids"]).loss.backward()
    mine = {name: p for name, p in tiny.prefix_parameters(model).items() if ".both." in name}
    assert len(mine) == 3 * 3 and all(p.requires_grad and p.grad.any() for p in mine.values())
    gates = [p for name, p in mine.items() if name.endswith("p_gate")]
    assert all(gate.shape == (2, 7) for gate in gates)


@torch.no_grad()
def test_three_and_one_twice():
    model = with_two("gpt2")
    model.add_adapter("third", config(num_virtual_tokens=1, task_type="CAUSAL_LM"))
    tiny.fill_adapter(model, "third", seed=5)
    names = ["third", "default", "second"]
    expected, random_state = logits(model, "gpt2", names), torch.get_rng_state()
    model.add_weighted_adapter(names, adapter_name="all")
    assert torch.equal(torch.get_rng_state(), random_state), "nothing is drawn for it"
    torch.testing.assert_close(logits(model, "gpt2", "all"), expected, **ROUNDING)
    model.add_weighted_adapter(["third", "third"], adapter_name="twice")
    assert model.peft_config["twice"].num_virtual_tokens == 2
    assert (logits(model, "gpt2", "twice") - logits(model, "gpt2", "third")).abs().max() > 1e-2


@torch.no_grad()
def test_text_begins_behind_all_of_them():
    model = with_two("gpt2")
    for name, length in (("default", 3), ("second", 4)):
        initialize_kv_prefix_from_tokens(model, tiny.tokens(length, seed=length), adapter_name=name)
    expected = logits(model, "gpt2", ["default", "second"])
    model.add_weighted_adapter(["default", "second"], adapter_name="both")
    assert model.peft_config["both"].position_mode == "shift"
    torch.testing.assert_close(logits(model, "gpt2", "both"), expected, **ROUNDING)


@pytest.mark.parametrize(
    ("second", "request_", "message"),
    [
        ({}, {"combination_type": "linear"}, r"combination_type='linear' would mix .* Only 'cat' is possible"),
        ({}, {"weights": [1, 0.5]}, r"weights=\[1, 0.5\] must be 1 for each of the 2 adapters"),
        ({}, {"weights": [1]}, r"weights=\[1\] must be 1 for each of the 2 adapters"),
        ({}, {"adapters": ["default", "other"]}, r"adapters=\['default', 'other'\] must name some .*'second'\]"),
        ({}, {"adapters": []}, r"adapters=\[\] must name some"),
        ({}, {"adapter_name": "second"}, r"adapter_name='second' must be a new name"),
        ({}, {"adapter_name": None}, r"adapter_name=None must be a new name"),
        ({"modules_to_save": ["ln_f"]}, {}, r"\['second'\] train modules of the model as well"),
        ({"position_mode": "shift"}, {}, r"position modes are {'default': 'keep', 'second': 'shift'}\. Keep them"),
    ],
)
def test_what_cannot_be_joined_is_refused_and_nothing_changes(second, request_, message):
    model = with_two("gpt2", second=second)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        model.add_weighted_adapter(**{"adapters": ["default", "second"], "adapter_name": "both"} | request_)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert list(model.peft_config) == ["default", "second"]


def test_text_that_would_begin_at_two_places_is_refused():
    shift = {"position_mode": "shift"}
    model = with_two("gpt2", shift, shift | {"layers_to_transform": [0], "layers_pattern": "h"})
    with pytest.raises(ValueError, match=r"'second': 'shift'}, and the prefixes are not all at the same sites"):
        model.add_weighted_adapter(["default", "second"], adapter_name="both")


@pytest.mark.parametrize("family", ["llama", "t5"])
@torch.no_grad()
def test_a_gate_for_each_virtual_token(family):
    """As many prefixes of one token, each with a gate of its own."""
    model = prefix_peft.wrap(tiny.build(family), 3, gate="token")
    given = tiny.inputs(family)
    assert torch.equal(model.eval()(**given).logits, tiny.build(family)(**given).logits), "they start shut"
    tiny.fill(model)
    expected = model(**given).logits
    task = model.peft_config["default"].task_type
    for j in range(3):
        model.add_adapter(f"one{j}", config(num_virtual_tokens=1, gate=True, task_type=task))
        own = tiny.prefix_parameters(model)
        for name, parameter in own.items():
            if f".one{j}." in name:
                parameter.copy_(own[name.replace(f"one{j}", "default")][:, j].reshape(parameter.shape))
    torch.testing.assert_close(logits(model, family, ["one0", "one1", "one2"]), expected, **ROUNDING)
