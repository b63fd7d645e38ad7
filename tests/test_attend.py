"""The choice between the two forms, and what the fast one spares."""

import gc

import pytest
import test_rows
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.attention.attend import why_joined
from prefix_peft.attention.terms import AttentionCall, Prefix


def wrapped(family="llama", length=3, **options):
    return tiny.fill(prefix_peft.wrap(tiny.build(family), length, **options)).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bart", "gemma3", "qwen3"])
def test_both_forms_give_the_same_logits_and_gradients(family):
    results = []
    for form in ("joined", "merged"):
        model, given = wrapped(family, attention_form=form), tiny.inputs(family, batch=3)
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        given["attention_mask"][0, :2] = 0
        logits = model(**given).logits[1:]
        logits.square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        results.append([logits.detach(), *gradients])
        assert {site.form for site in prefix_peft.inspect(model)} == {form}
    for joined, merged in zip(*results, strict=True):
        torch.testing.assert_close(joined, merged, rtol=1e-3, atol=1e-5 * float(joined.abs().max()))


@torch.no_grad()
def test_rows_with_prefixes_of_their_own():
    names = ["a", "b", "__base__", "a", "default"]
    logits = []
    for form in ("joined", "auto"):
        model = wrapped(attention_form=form)
        for name, length in (("a", 6), ("b", 2)):
            model.add_adapter(name, PrefixConfig(num_virtual_tokens=length, task_type="CAUSAL_LM"))
        tiny.fill(model)
        ids = tiny.tokens(len(names), 7)
        logits.append(model(ids, adapter_names=names).logits)
        for i, name in enumerate(names):
            own = test_rows.alone(model, name, lambda i=i, ids=ids, model=model: model(ids[i : i + 1]).logits)
            torch.testing.assert_close(logits[-1][i : i + 1], own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """Counts tensors that are as long as prefix and text together, and masks."""

    def __init__(self, length):
        super().__init__()
        self.length, self.joined, self.masks = length, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.joined += self.length in tensor.shape
                self.masks += tensor.dtype == torch.bool and tensor.dim() == 4
        return result


@torch.no_grad()
def test_merged_decoding_copies_no_cache_and_builds_no_mask():
    counts = {}
    for form in ("joined", "merged"):
        model = wrapped(length=50, attention_form=form)
        past = model(tiny.tokens(2, 10), use_cache=True).past_key_values
        with Largest(50 + 11) as seen:
            model(tiny.tokens(2, 1), past_key_values=past)
        counts[form] = seen.joined
        with Largest(50 + 10) as seen:
            model(tiny.tokens(2, 10))
        counts[form, "mask"] = seen.masks
    assert counts["merged"] == counts["merged", "mask"] == 0
    assert counts["joined"] > 0 and counts["joined", "mask"] > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gate": True}, "the prefix has a gate"),
        ({"attention_form": "joined"}, "attention_form='joined' was asked for"),
    ],
)
def test_inspect_says_why_a_prefix_is_joined(options, reason):
    model = wrapped(**options)
    for site in prefix_peft.inspect(model):
        assert site.form == "joined" and reason in site.reason
        assert site.lengths == {"default": 3} and site.parameters("default") == 3 * 2 * (14 + 14)


def test_inspect_tells_idle_sites_and_attention_by_hand():
    model = wrapped()
    with model.disable_adapter():
        assert {site.form for site in prefix_peft.inspect(model)} == {"idle"}
    assert {site.form for site in prefix_peft.inspect(wrapped("t5"))} == {"joined"}
    with pytest.raises(ValueError, match="LlamaForCausalLM carries no prefix; wrap it first"):
        prefix_peft.inspect(tiny.build("llama"))


@pytest.mark.parametrize(
    ("options", "mask", "reason"),
    [
        ({"dropout": 0.1}, None, "dropout or a position bias"),
        ({"position_bias": torch.zeros(1, 2, 4, 4)}, None, "dropout or a position bias"),
        ({}, torch.zeros(1, 1, 4, 4, requires_grad=True), "the mask is learned"),
        ({}, torch.zeros(1, 1, 4, 4), ""),
    ],
)
def test_what_the_kernels_cannot_do_is_joined(options, mask, reason):
    query = torch.zeros(1, 2, 4, 8)
    call = AttentionCall(sdpa_attention_forward, "sdpa", torch.nn.Identity(), query, query, query, mask, options)
    found = why_joined(call, Prefix(query, query))
    assert reason in found and bool(reason) == bool(found)
    assert why_joined(call._replace(query=query.expand(3, -1, -1, -1)), Prefix(query, query))
    assert "'eager'" in why_joined(call._replace(implementation="eager"), Prefix(query, query))


def test_a_checkpointed_layer_keeps_no_mask():
    model, ids = wrapped(attention_form="merged").train(), tiny.tokens(2, 23)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = model(ids, attention_mask=mask, labels=ids).loss
    gc.collect()
    alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == (2, 1, 23, 23)]
    assert not [t for t in alive if t.dtype == torch.float32]
    loss.backward()


def test_a_form_that_cannot_be_is_refused_with_the_reason():
    model = wrapped(attention_form="merged", gate=True)
    with pytest.raises(NotImplementedError, match=r"attention_form='merged' is not possible in LlamaAttention: .*gate"):
        model(tiny.tokens(1, 4))
    with pytest.raises(ValueError, match=r"unknown attention_form 'fast'; choose from \['auto', 'joined', 'merged'\]"):
        PrefixConfig(attention_form="fast")


def test_a_release_does_not_fix_the_form(tmp_path):
    wrapped(attention_form="joined").save_pretrained(tmp_path)
    assert PrefixConfig.from_pretrained(tmp_path).attention_form == "auto"
