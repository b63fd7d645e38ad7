"""LoRA and a prefix on one model, by transformers' own ``add_adapter``."""

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file

import prefix_peft
from prefix_peft import PrefixConfig

# PEFT says so of every second adapter that does not come through a PeftModel
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
P = 3
EXACT = {"atol": 5e-5, "rtol": 0.0}  # float32 rounds logits of 15 to 2e-6, through some twenty sums
IDS = tiny.tokens(2, 7)
FORMS = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 13}}
ORDERS = [("lora", "ours"), ("ours", "lora")]
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def config(name, form="flat"):
    if name == "ours":
        return PrefixConfig(num_virtual_tokens=P, task_type="CAUSAL_LM", **FORMS[form])
    return peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def with_both(order, form="flat"):
    """A model with both, active and with contents that matter and do not depend on the order."""
    model = tiny.build("llama")
    for name in order:
        model.add_adapter(config(name, form), adapter_name=name)
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(lora_parameters(model).items())):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    tiny.fill(model)
    model.set_adapter(list(order))
    return model.eval()


def lora_parameters(model):
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def merged(directory):
    """The model into whose weights PEFT has merged the saved LoRA."""
    return peft.PeftModel.from_pretrained(tiny.build("llama"), directory).merge_and_unload()


def save(model, name, directory):
    model.set_adapter(name)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_together_they_are_a_prefix_on_a_model_with_lora_merged_into_it(order, form, tmp_path):
    model = with_both(order, form)
    both = logits(model)
    lora, ours = save(model, "lora", tmp_path / "lora"), save(model, "ours", tmp_path / "ours")
    base = merged(lora)
    assert not torch.allclose(both, logits(base), atol=0.1), "the prefix must matter"
    fresh = prefix_peft.wrap(base, P).eval()
    peft.set_peft_model_state_dict(fresh, load_file(ours / "adapter_model.safetensors"))
    torch.testing.assert_close(both, logits(fresh), **EXACT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_each_is_saved_alone_and_loaded_on_either_model(order, form, tmp_path):
    model = with_both(order, form)
    both = logits(model)
    alone = {}
    for name in order:
        directory = save(model, name, tmp_path / name)
        alone[name] = logits(model)
        fresh = peft.PeftModel.from_pretrained(tiny.build("llama"), directory).eval()
        assert torch.equal(logits(fresh), alone[name])
    lora = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {key.split(".")[-3] for key in lora} == LINEAR and not any("prefix_kv" in key for key in lora)
    assert all("prefix_kv" in key for key in load_file(tmp_path / "ours" / "adapter_model.safetensors"))
    again = tiny.build("llama")
    for name in order:
        again.load_adapter(str(tmp_path / name), adapter_name=name)
    again.set_adapter(list(order))
    assert torch.equal(logits(again), both)
    assert not torch.allclose(alone["lora"], both, atol=0.1) and not torch.allclose(alone["ours"], both, atol=0.1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_both_train_and_nothing_else_does(order, form):
    model = with_both(order, form).train()
    linear = [name for name, module in model.named_modules() if type(module).__name__ == "Linear" and "prefix" in name]
    assert len(linear) == (4 if form == "mlp" else 0), "LoRA leaves the prefix's own layers alone"
    assert not any("prefix_kv" in name for name in lora_parameters(model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == lora_parameters(model).keys() | tiny.prefix_parameters(model).keys()


@pytest.mark.parametrize("gone", ["lora", "ours"])
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_disabling_enabling_and_deleting_one(order, gone):
    model = with_both(order)
    both, bare = logits(model), logits(tiny.build("llama"))
    model.disable_adapters()
    assert torch.equal(logits(model), bare)
    model.enable_adapters()
    assert torch.equal(logits(model), both)
    left = next(name for name in order if name != gone)
    model.set_adapter(left)
    alone = logits(model)
    model.set_adapter(list(order))
    model.delete_adapter(gone)
    model.set_adapter(left)
    assert torch.equal(logits(model), alone) and not torch.allclose(alone, bare, atol=0.1)
    assert not (tiny.prefix_parameters if gone == "ours" else lora_parameters)(model)


def test_real_tokens_are_read_by_the_model_with_lora(tmp_path):
    c = tiny.tokens(1, P, seed=7)
    model = tiny.build("llama")
    model.add_adapter(config("lora"), adapter_name="lora")
    save(model, "lora", tmp_path / "lora")
    model.add_adapter(config("ours"), adapter_name="ours")
    model.set_adapter(["lora", "ours"])
    prefix_peft.initialize_kv_prefix_from_tokens(model, c, adapter_name="ours")
    with torch.no_grad():
        expected = merged(tmp_path / "lora")(torch.cat([c.expand(2, -1), IDS], dim=1)).logits[:, P:]
    torch.testing.assert_close(logits(model.eval()), expected, **EXACT)


def test_the_dropout_of_the_base_is_off_only_while_a_prefix_is_active():
    shape = tiny.build("opt").config
    shape.dropout = 0.5
    model = tiny.tr.OPTForCausalLM(shape)
    for name in ("lora", "ours"):
        model.add_adapter(config(name), adapter_name=name)

    def quiet(active):
        model.set_adapter(active)
        return torch.equal(logits(model.train()), logits(model.train()))

    assert quiet(["lora", "ours"]) and quiet("ours") and not quiet("lora")
    model.delete_adapter("ours")
    assert not quiet("lora")
