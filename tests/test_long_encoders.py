"""Encoders that attend in blocks and bands, by hand, at lengths at which they really do.

Where all values of the text are one vector, attention is known without computing it: the weights sum to one.
"""

import pytest
import tiny
import torch
import transformers as tr
from torch import nn

import prefix_peft
from prefix_peft.anatomy.watching import anatomy_of

HIDDEN, HEADS, LENGTH = 24, 2, 150
SIZES = tiny.TOKENS | {"d_model": HIDDEN, "decoder_start_token_id": tiny.BOS, "num_layers": 2, "dropout_rate": 0.0}
BART = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
FFN = {"encoder_ffn_dim": 17, "decoder_ffn_dim": 17, "init_std": 0.2}
T5 = {"d_kv": 12, "d_ff": 17, "num_heads": HEADS, "num_decoder_layers": 1, "initializer_factor": 2.0, "local_radius": 5}

BUILD = {
    "bigbird_pegasus": lambda: tr.BigBirdPegasusForConditionalGeneration(
        tr.BigBirdPegasusConfig(**SIZES, **BART, **FFN, max_position_embeddings=256, block_size=8, num_random_blocks=2)
    ),
    "longt5 local": lambda: tr.LongT5ForConditionalGeneration(tr.LongT5Config(**SIZES, **T5)),
    "longt5 transient-global": lambda: tr.LongT5ForConditionalGeneration(
        tr.LongT5Config(**SIZES, **T5, encoder_attention_type="transient-global", global_block_size=9)
    ),
    "pegasus_x": lambda: tr.PegasusXForConditionalGeneration(
        tr.PegasusXConfig(**SIZES, **BART, **FFN, block_size=8, num_global_tokens=3)
    ),
    "led": lambda: tr.LEDForConditionalGeneration(
        tr.LEDConfig(**SIZES, **BART, **FFN, max_encoder_position_embeddings=256, attention_window=8)
    ),
}
QUERIES, VALUES = ("query", "query_global", "q", "q_proj"), ("value", "value_global", "v", "v_proj")


class Constant(nn.Module):
    """A projection that gives the same vector for every token."""

    def __init__(self, vector):
        super().__init__()
        self.vector = vector

    def forward(self, states):
        return self.vector.expand(*states.shape[:-1], -1).clone()


def build(family):
    torch.manual_seed(0)
    return BUILD[family]().eval()


def given(family):
    inputs = {"input_ids": tiny.tokens(2, LENGTH), "decoder_input_ids": tiny.tokens(2, 4, seed=1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, -20:] = 0
    if family == "led":
        inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
        inputs["global_attention_mask"][:, [0, 70]] = 1
    return inputs


def replace(model, names, vector):
    """Let all projections of these names in the encoder give one vector."""
    for module in model.get_encoder().modules():
        for name, child in list(module.named_children()):
            if name in names and isinstance(child, nn.Linear):
                setattr(module, name, Constant(vector))


def wrapped(base):
    return prefix_peft.wrap(base, 3, sites=["encoder"]).eval()


def set_prefix(model, key, value):
    """The same key and value (G * D) in all places."""
    with torch.no_grad():
        for name, parameter in tiny.prefix_parameters(model).items():
            vector = key if name.endswith("p_key") else value
            parameter.copy_(vector.view(HEADS, 1, -1).expand_as(parameter))


@pytest.fixture(params=BUILD)
def family(request):
    return request.param


@torch.no_grad()
def test_the_blocks_are_real(family):
    """What is tested here is not the full attention to which some fall back on short texts."""
    base = build(family)
    assert [site.by_hand for site in anatomy_of(base).sites.values() if site.role == "encoder"] == [True, True]
    inputs = given(family)
    before = base(**inputs).logits
    inputs["input_ids"][0, 75] = 3
    states = base.get_encoder()(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    assert states.shape[:2] == (2, LENGTH) and not torch.equal(base(**inputs).logits, before)


@torch.no_grad()
def test_weights_of_prefix_and_text_sum_to_one(family):
    base, vector = build(family), torch.randn(HIDDEN)
    replace(base, VALUES, vector)
    expected = base(**given(family)).logits
    model = wrapped(base)
    set_prefix(model, torch.randn(HIDDEN), vector)
    torch.testing.assert_close(model(**given(family)).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_every_query_sees_the_prefix(family):
    """A key that outweighs all others leaves nothing but the prefix's value, in every block and band."""
    query, value = torch.randn(HIDDEN), torch.randn(HIDDEN)
    oracle = build(family)
    replace(oracle, VALUES, value)
    expected = oracle(**given(family)).logits
    base = build(family)
    replace(base, QUERIES, query)
    model = wrapped(base)
    set_prefix(model, 1000 * query, value)
    torch.testing.assert_close(model(**given(family)).logits, expected, atol=1e-4, rtol=1e-4)


def test_gradients_and_padding(family):
    model = tiny.fill(wrapped(build(family)))
    inputs = given(family)
    logits = model(**inputs).logits
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in tiny.prefix_parameters(model).values())
    other = inputs | {"input_ids": inputs["input_ids"].clone()}
    other["input_ids"][1, -20:] = 5
    torch.testing.assert_close(model(**other).logits, logits, atol=1e-4, rtol=1e-4)
