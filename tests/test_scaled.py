"""Virtual tokens that train in units of their own size: what a step does, and what is saved and loaded."""

import copy
import pickle

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_sinks import WEIGHTS, train, whole

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.encoders import FlatEncoder
from prefix_peft.gathering import full_prefix
from prefix_peft.layer import prefix_layers
from prefix_peft.resuming import TRAINED_NAME, save_trained

P = 5
FAMILIES = ["llama", "gpt2", "bart", "t5"]


def wrapped(family="llama", **options):
    model = prefix_peft.wrap(tiny.build(family), P, scale_parameter=True, **options)
    grow(model)
    return model


@torch.no_grad()
def grow(model):
    """Tokens of very different sizes: the j-th is 3^j times as large as it was."""
    sizes = 3.0 ** torch.arange(P)[None, :, None]
    for layer in prefix_layers(model):
        encoder = layer.encoder("default")
        encoder.fill(*(part * sizes for part in encoder()))


def assert_equal(before, after):
    assert before.keys() == after.keys() and before
    for name in before:
        assert torch.equal(before[name], after[name]), name


def first_step(model, rate):
    """What AdamW's first step moves: with any gradient, the rate times its sign."""
    before = whole(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    sum(part.sum() for layer in prefix_layers(model) for part in layer.encoder("default")()).backward()
    optimizer.step()
    return before, {name: before[name] - p for name, p in whole(model).items()}


def assert_moved_by_shares(before, moved, rate, frozen=0):
    """A unit is the power of two next to a token's root mean square; of keys, to an eighth of it."""
    for name, p in before.items():
        for j in range(P):
            if j < frozen:
                assert not moved[name][:, j].any(), name
                continue
            size = p[:, j].double().square().mean().sqrt().item() / (8 if name.endswith(".p_key") else 1)
            step = moved[name][:, j].mean().item()
            assert 2**-0.5 - 1e-3 <= step / size / rate <= 2**0.5 + 1e-3, (name, j, step, size)
            # rounded in float32 are what was there, up to six times its root mean square, and its sum with the step
            rounding = 2 * 6 * 8 * size * torch.finfo(torch.float32).eps
            torch.testing.assert_close(moved[name][:, j], torch.full_like(p[:, j], step), rtol=0, atol=rounding)


@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_moves_each_token_by_a_share_of_its_size(family, frozen):
    rate, model = 2.0**-6, wrapped(family, num_frozen_tokens=frozen)
    assert_moved_by_shares(*first_step(model, rate), rate, frozen)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_it_computes_what_a_flat_prefix_does(family):
    model, flat = wrapped(family), prefix_peft.wrap(tiny.build(family), P)
    peft.set_peft_model_state_dict(flat, peft.get_peft_model_state_dict(model))
    given = tiny.inputs(family)
    assert torch.equal(model.eval()(**given).logits, flat.eval()(**given).logits)


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_release_holds_p_alone_and_is_flat(frozen, tmp_path):
    model = wrapped(num_frozen_tokens=frozen)
    train(model)
    model.save_pretrained(tmp_path)
    assert sorted({name.rpartition(".")[2] for name in load_file(tmp_path / WEIGHTS)}) == ["p_key", "p_value"]
    released = peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path)
    assert_equal(whole(model), whole(released))
    config = released.peft_config["default"]
    assert not config.scale_parameter and config.trained_with == {"scale_parameter": True}
    if not frozen:
        assert {type(layer.encoder("default")) for layer in prefix_layers(released)} == {FlatEncoder}


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_release_that_is_trained_on_takes_units_of_its_own(low_cpu_mem_usage, tmp_path):
    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    config = PrefixConfig.from_pretrained(tmp_path)
    config.scale_parameter = True
    again = peft.PeftModel.from_pretrained(
        tiny.build("llama"), tmp_path, is_trainable=True, config=config, low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert_equal(whole(model), whole(again))
    assert_moved_by_shares(*first_step(again, 2.0**-6), 2.0**-6)


def test_copies_are_of_the_same_kind():
    model = wrapped()
    train(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_equal(whole(model), whole(twin))
        assert_equal(dict(model.named_buffers()), dict(twin.named_buffers()))
        train(twin)
        assert any(not torch.equal(p, q) for p, q in zip(whole(model).values(), whole(twin).values(), strict=True))


def test_a_state_dict_goes_back_with_its_units():
    """A prefix that has grown since keeps the units of its start."""
    model, other = wrapped(), prefix_peft.wrap(tiny.build("llama"), P, scale_parameter=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "prefix_kv" in name:
                parameter.mul_(10.0)
    other.load_state_dict(model.state_dict())
    assert_equal(dict(model.named_buffers()), dict(other.named_buffers()))
    assert_equal(dict(model.named_parameters()), dict(other.named_parameters()))


def test_a_twin_of_the_same_config_trains_in_the_same_units():
    model = wrapped()
    model.add_adapter("second", model.peft_config["default"])
    for layer in prefix_layers(model):
        assert_equal(*(dict(layer.encoder(name).named_buffers()) for name in ("default", "second")))


def test_a_checkpoint_of_several_ranks_holds_what_one_of_one_does(tmp_path):
    """What they gather has P in parts."""
    model = wrapped(num_frozen_tokens=2)
    train(model)
    model.save_pretrained(tmp_path / "checkpoint-1")
    save_trained(model, "default", full_prefix(model), tmp_path / "checkpoint-1")
    gathered = load_file(tmp_path / "checkpoint-1" / TRAINED_NAME)
    model.save_pretrained(tmp_path / "checkpoint-1")
    assert_equal(gathered, load_file(tmp_path / "checkpoint-1" / TRAINED_NAME))


def test_an_mlp_has_no_such_units():
    with pytest.raises(ValueError, match="scale_parameter=True needs a flat prefix"):
        PrefixConfig(num_virtual_tokens=P, scale_parameter=True, prefix_projection=True)


def test_nothing_to_go_by_is_one_unit():
    model = prefix_peft.wrap(tiny.build("llama"), P, scale_parameter=True)
    encoder = prefix_layers(model)[0].encoder("default")
    encoder.fill(*(torch.zeros_like(part) for part in encoder()))
    assert {unit.unique().item() for name, unit in encoder.named_buffers() if name.startswith("unit")} == {1.0}
    assert not any(part.any() for part in encoder())
