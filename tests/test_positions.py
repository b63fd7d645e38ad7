"""Positions of left-padded rows, for models whose forward pass does not name them."""

import peft
import pytest
import tiny
import torch
import transformers as tr
from accelerate.hooks import ModelHook, add_hook_to_module

import prefix_peft
from prefix_peft.anatomy.watching import anatomy_of

SHORT, LONG = 4, 7


class Unnamed(tr.LlamaForCausalLM):
    """As those behind a tower of images or sound: ``generate`` does not know that it takes positions."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


def build(architecture=Unnamed):
    torch.manual_seed(0)
    return architecture(tr.LlamaConfig(**tiny.LLAMA_LIKE)).eval()


def padded():
    ids, mask = tiny.tokens(2, LONG), torch.ones(2, LONG, dtype=torch.long)
    mask[0, : LONG - SHORT] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def model():
    return tiny.fill(prefix_peft.wrap(build(), 3)).eval()


@pytest.mark.parametrize("architecture", [Unnamed, tr.LlamaForCausalLM])
def test_only_who_cannot_be_asked_is_told(architecture):
    assert anatomy_of(build(architecture)).hears_of_positions == (architecture is Unnamed)


@torch.no_grad()
def test_a_padded_row_is_the_row_alone(model):
    together = model(**padded()).logits
    alone = model(padded()["input_ids"][:1, LONG - SHORT :]).logits
    torch.testing.assert_close(together[:1, LONG - SHORT :], alone, atol=1e-5, rtol=1e-4)
    given = model(**padded(), position_ids=torch.arange(LONG)[None]).logits
    assert (given - together)[0].abs().max() > 0.01, "positions that are given are kept"


@torch.no_grad()
def test_a_padded_row_writes_what_it_writes_alone(model):
    options = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    together = model.generate(**padded(), **options).logits
    alone = model.generate(input_ids=padded()["input_ids"][:1, LONG - SHORT :], **options).logits
    for step, own in zip(together, alone, strict=True):
        torch.testing.assert_close(step[:1], own, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_a_prefix_nothing_is_told(model):
    expected = build()(**padded()).logits
    with model.disable_adapter():
        assert torch.equal(model(**padded()).logits, expected)
    base = model.unload()
    assert torch.equal(base(**padded()).logits, expected) and not base._forward_pre_hooks


@torch.no_grad()
def test_a_hook_of_accelerate_neither_hides_nor_doubles_a_shift():
    config = prefix_peft.PrefixConfig(num_virtual_tokens=3, position_mode="shift", task_type="CAUSAL_LM")
    model = tiny.fill(peft.get_peft_model(tiny.build("gpt2"), config)).eval()
    ids = tiny.tokens(1, LONG)
    expected = model(ids).logits
    add_hook_to_module(model.get_base_model().transformer.wpe, ModelHook())
    torch.testing.assert_close(model(ids).logits, expected)
    model.add_adapter("second", config)
    model.set_adapter("default")
    torch.testing.assert_close(model(ids).logits, expected)
    base = model.unload()
    torch.testing.assert_close(base(ids).logits, tiny.build("gpt2")(ids).logits)
    again = tiny.fill(peft.get_peft_model(base, config)).eval()
    torch.testing.assert_close(again(ids).logits, expected)
