"""PEFT's own ``push_to_hub`` and ``from_pretrained`` over HTTP, by huggingface_hub's client, to a small Hub."""

import pytest
import tiny
import torch
from hub_client import CARD, CONFIG, WEIGHTS
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from transformers import GPT2LMHeadModel

import prefix_peft

IDS = tiny.tokens(2, 9)


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def test_push_to_hub_and_back(hub, monkeypatch):
    assert "tester/base" in str(tiny.build("gpt2").push_to_hub("base")), "a model without a prefix goes as ever"
    assert "library_name: transformers" in hub.repositories["tester/base"].files()[CARD].decode()
    model = tiny.fill(prefix_peft.wrap(GPT2LMHeadModel.from_pretrained("tester/base"), 3))
    commit = model.push_to_hub("prefix", private=True, commit_message="Three virtual tokens", tags=["mine"])
    theirs = hub.repositories["tester/prefix"]
    assert (
        theirs.private
        and theirs.messages == ["Three virtual tokens"]
        and set(theirs.files()) == {CONFIG, WEIGHTS, CARD}
    )
    assert commit.oid == theirs.branches["main"] and ("/blobs/" in " ".join(hub.asked)) == (hub.uploads == "lfs")
    found = AutoPeftModelForCausalLM.from_pretrained("tester/prefix")
    assert torch.equal(logits(found), logits(model))

    card = ModelCard.load("tester/prefix")
    assert 'AutoPeftModelForCausalLM.from_pretrained("tester/prefix")' in card.text
    assert f"| `{hub.repositories['tester/base'].branches['main']}` |" in card.text, "the commit of the base model"
    assert card.data.to_dict() == {
        "library_name": "peft", "pipeline_tag": "text-generation", "base_model": "tester/base",
        "base_model_relation": "adapter",
        "tags": ["prefix-tuning", "prefix-peft", "base_model:adapter:tester/base", "mine"],
    }  # fmt: skip

    before = logits(model)
    tiny.fill(model, seed=9).push_to_hub("tester/prefix", revision="longer")
    base = tiny.build("gpt2")
    assert torch.equal(logits(PeftModel.from_pretrained(base, "tester/prefix", revision="longer")), logits(model))
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained("tester/prefix")), before)
    assert 'from_pretrained("tester/prefix", revision="longer")' in theirs.files("longer")[CARD].decode()

    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="Can't find 'adapter_config\\.json' at 'tester/prefix'"):
        PeftModel.from_pretrained(tiny.build("gpt2"), "tester/prefix", force_download=True)
    mine = PeftModel.from_pretrained(tiny.build("gpt2"), "tester/prefix", token="anything")
    assert torch.equal(logits(mine), before)


def test_several_adapters_have_a_subfolder_each(plain_hub):
    model = tiny.fill(prefix_peft.wrap(tiny.build("gpt2"), 3))
    model.add_adapter("two", prefix_peft.PrefixConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    tiny.fill_adapter(model, "two", seed=5)
    model.set_adapter("two")
    model.push_to_hub("both")
    assert set(plain_hub.repositories["tester/both"].files()) == {
        CONFIG,
        WEIGHTS,
        CARD,
        f"two/{CONFIG}",
        f"two/{WEIGHTS}",
    }
    found = PeftModel.from_pretrained(tiny.build("gpt2"), "tester/both", subfolder="two")
    assert torch.equal(logits(found), logits(model))


def test_transformers_own_push_to_hub(plain_hub):
    model = tiny.build("gpt2")
    model.add_adapter(prefix_peft.PrefixConfig(num_virtual_tokens=3))
    tiny.fill(model).push_to_hub("injected")
    files = plain_hub.repositories["tester/injected"].files()
    assert set(files) == {CONFIG, WEIGHTS, CARD} and 'from_pretrained("tester/injected")' in files[CARD].decode()
    fresh = tiny.build("gpt2")
    fresh.load_adapter("tester/injected")
    assert torch.equal(logits(fresh), logits(model))


def test_another_method_goes_as_peft_sends_it(plain_hub):
    get_peft_model(tiny.build("gpt2"), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).push_to_hub("lora")
    assert "prefix" not in plain_hub.repositories["tester/lora"].files()[CARD].decode()


def test_push_to_hub_names_no_directory_of_this_machine(plain_hub, copied_base):
    model = prefix_peft.wrap(GPT2LMHeadModel.from_pretrained(copied_base), 3)
    with pytest.raises(ValueError, match=r'nobody else has.*model.peft_config\["default"\].base_model_name_or_path = '):
        model.push_to_hub("prefix")
    assert plain_hub.asked == []
    model.peft_config["default"].base_model_name_or_path = "openai/gpt2"
    model.push_to_hub("prefix")
    everything = b" ".join(plain_hub.repositories["tester/prefix"].files().values())
    assert str(copied_base).encode() not in everything and b"openai/gpt2" in everything
