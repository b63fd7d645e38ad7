"""After ``import prefix_peft`` PEFT and transformers treat a prefix as they treat LoRA."""

import copy
import pickle

import peft
import pytest
import tiny
import torch

import prefix_peft
from prefix_peft import PrefixConfig

IDS = tiny.tokens(2, 7)


def config(**options):
    return PrefixConfig(**{"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"} | options)


@pytest.fixture
def model():
    return tiny.fill(peft.get_peft_model(tiny.build("llama"), config())).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_get_peft_model_chooses_the_class_of_the_task(model):
    assert isinstance(model, peft.PeftModelForCausalLM)
    seq2seq = peft.get_peft_model(tiny.build("bart"), config(task_type="SEQ_2_SEQ_LM"))
    assert isinstance(seq2seq, peft.PeftModelForSeq2SeqLM)


def test_print_trainable_parameters(model, capsys):
    model.print_trainable_parameters()
    p = 3 * 3 * 2 * (14 + 14)  # layers, virtual tokens, key/value heads, key and value widths
    assert f"trainable params: {p:,} ||" in capsys.readouterr().out


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_wrap_infers_the_task_type(family):
    model = prefix_peft.wrap(tiny.build(family), num_virtual_tokens=2)
    assert model.peft_config["default"].task_type == ("CAUSAL_LM" if family in tiny.CAUSAL else "SEQ_2_SEQ_LM")


def test_wrap_refuses_a_wrapped_model(model):
    with pytest.raises(ValueError, match=r"PeftModel already; add another prefix with model.add_adapter"):
        prefix_peft.wrap(model)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_disable_adapter_gives_the_bits_of_the_base(family):
    base, given = tiny.build(family), tiny.inputs(family)
    expected = base(**given).logits
    model = tiny.fill(prefix_peft.wrap(base, 3)).eval()
    assert not torch.allclose(model(**given).logits, expected, atol=0.1)
    with model.disable_adapter():
        assert torch.equal(model(**given).logits, expected)


def test_add_set_and_delete(model):
    default = logits(model)
    model.add_adapter("other", config(num_virtual_tokens=5))
    tiny.fill_adapter(model, "other", seed=8)
    assert torch.equal(logits(model), default), "a new adapter is not active"
    model.set_adapter("other")
    other = logits(model)
    assert not torch.allclose(other, default, atol=0.1)
    assert [p.requires_grad for name, p in tiny.prefix_parameters(model).items() if ".other." in name] == [True] * 6
    assert not any(p.requires_grad for name, p in tiny.prefix_parameters(model).items() if ".default." in name)
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("other")
    assert torch.equal(logits(model), default)
    with pytest.raises(ValueError, match="ghost"):
        model.set_adapter("ghost")


@pytest.mark.parametrize("through", ["PeftModel", "tuner"])
def test_several_active_adapters_are_concatenated(model, through):
    """[P_a; P_b] is one prefix whose tokens are those of a, then those of b."""
    model.add_adapter("b", config(num_virtual_tokens=2))
    tiny.fill_adapter(model, "b", seed=8)
    (model if through == "PeftModel" else model.base_model).set_adapter(["default", "b"])
    assert model.active_adapters == ["default", "b"]
    both = logits(model)
    model.add_adapter("joined", config(num_virtual_tokens=5))
    parameters = tiny.prefix_parameters(model)
    with torch.no_grad():
        for name, p in parameters.items():
            if ".joined." in name:
                p.copy_(torch.cat([parameters[name.replace(".joined.", f".{part}.")] for part in ("default", "b")], 1))
    model.set_adapter("joined")
    torch.testing.assert_close(both, logits(model))
    with pytest.raises(ValueError, match=r"set_adapter got \['default', 'ghost'\]"):
        model.set_adapter(["default", "ghost"])


def test_unload_leaves_the_base_as_it_was():
    base = tiny.build("gpt2")
    names, expected = [name for name, _ in base.named_modules()], logits(base)
    model = prefix_peft.wrap(base, 3)
    prefix_peft.initialize_kv_prefix_from_tokens(model, tiny.tokens(1, 3))
    model.train()
    model.gradient_checkpointing_enable()
    model(IDS)
    model.gradient_checkpointing_disable()
    bare = model.unload().eval()
    assert bare is base and [name for name, _ in bare.named_modules()] == names
    assert torch.equal(logits(bare), expected)
    assert not bare._forward_pre_hooks and "forward" not in vars(bare.transformer.wpe)


def test_deleting_the_last_prefix_leaves_no_layer(model):
    with pytest.warns(UserWarning):
        model.add_adapter("other", config())
        model.delete_adapter("default")
    model.delete_adapter("other")
    assert not any("prefix_kv" in name for name, _ in model.named_modules())


def test_merge_and_unload_says_why_not(model):
    with pytest.raises(NotImplementedError, match=r"cannot be merged into the weights.*model.unload\(\)"):
        model.merge_and_unload()


def test_modules_to_save_train_and_are_saved(tmp_path):
    base = tiny.build("llama")
    torch.nn.init.normal_(base.lm_head.weight)
    model = peft.get_peft_model(base, config(modules_to_save=["lm_head"])).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    expected = logits(model.eval())
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(fresh_with_head(), tmp_path).eval()
    assert torch.equal(logits(again), expected)
    assert not torch.equal(again.lm_head.weight, base.get_input_embeddings().weight)


def fresh_with_head():
    base = tiny.build("llama")
    torch.nn.init.normal_(base.lm_head.weight)
    return base


@pytest.mark.parametrize("options", [{}, {"is_trainable": True}, {"low_cpu_mem_usage": True}], ids=str)
def test_from_pretrained(model, tmp_path, options):
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path, **options)
    assert all(p.requires_grad == ("is_trainable" in options) for p in tiny.prefix_parameters(again).values())
    assert torch.equal(logits(again.eval()), logits(model))


def test_low_cpu_mem_usage_keeps_float32_under_a_half_precision_base(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny.build("llama").bfloat16(), tmp_path, low_cpu_mem_usage=True)
    pairs = zip(tiny.prefix_parameters(again).values(), tiny.prefix_parameters(model).values(), strict=True)
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in pairs)
    assert logits(again).isfinite().all()


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_auto_peft_model(family, tmp_path):
    tiny.build(family).save_pretrained(tmp_path / "base")
    auto, cls = {
        "llama": ("CausalLM", peft.AutoPeftModelForCausalLM), "bart": ("Seq2SeqLM", peft.AutoPeftModelForSeq2SeqLM),
    }[family]  # fmt: skip
    import transformers

    base = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(tmp_path / "base")
    model = tiny.fill(prefix_peft.wrap(base, 3)).eval()
    model.save_pretrained(tmp_path / "prefix")
    given = tiny.inputs(family)
    with torch.no_grad():
        assert torch.equal(cls.from_pretrained(tmp_path / "prefix").eval()(**given).logits, model(**given).logits)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_transformers_own_add_and_load_adapter(model, tmp_path):
    model.save_pretrained(tmp_path / "prefix")
    loaded = tiny.build("llama")
    loaded.load_adapter(str(tmp_path / "prefix"))
    assert torch.equal(logits(loaded.eval()), logits(model))
    loaded.disable_adapters()
    assert torch.equal(logits(loaded), logits(tiny.build("llama")))
    loaded.enable_adapters()
    loaded.add_adapter(config(num_virtual_tokens=2), adapter_name="second")
    loaded.set_adapter(["default", "second"])
    assert loaded.active_adapters() == ["default", "second"]
    both = logits(loaded)
    loaded.delete_adapter("second")
    loaded.set_adapter("default")
    assert torch.equal(logits(loaded), logits(model)) and not torch.equal(both, logits(model))
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path / "again")), logits(model))


def test_status_reports(model):
    assert model.get_model_status().trainable_params == 504
    assert {layer.module_type for layer in model.get_layer_status()} == {"PrefixLayer"}


def test_a_loaded_config_can_start_another_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    peft.get_peft_model(tiny.build("llama"), config)
    other = peft.get_peft_model(tiny.build("gpt2"), config)
    assert other.get_nb_trainable_parameters()[1] > 0


def test_copies_and_pickles_are_independent(model):
    expected = logits(model)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(again), expected)
        tiny.fill(again, seed=9)
        assert torch.equal(logits(model), expected)


def test_the_prefix_is_not_in_the_cache_and_the_callers_mask_is_his(model):
    mask = torch.ones_like(IDS)
    out = model(IDS, attention_mask=mask, use_cache=True)
    assert out.past_key_values.get_seq_length() == IDS.shape[1] and mask.shape == IDS.shape
    with torch.no_grad():
        one_more = model(IDS[:, :1], past_key_values=out.past_key_values).logits
        whole = model(torch.cat([IDS, IDS[:, :1]], dim=1)).logits[:, -1:]
    torch.testing.assert_close(one_more, whole, atol=1e-4, rtol=1e-4)
