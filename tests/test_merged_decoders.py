"""Decoders with one softmax over their text and, behind it, what the encoder read: their text has absolute positions.

Queries are rotated and the encoder's keys are not, so a score between them tells where the query stands.
"""

import pytest
import tiny
import torch
import transformers as tr

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.anatomy.watching import anatomy_of

P = 5
EXACT = {"atol": 5e-5, "rtol": 0.0}  # as in test_initialize
TEXT = tiny.TOKENS | {
    "hidden_size": 42,
    "intermediate_size": 31,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "query_pre_attn_scalar": 14,
    "max_position_embeddings": 128,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
    },
    "initializer_range": 0.15,
    "eos_token_id": None,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 13,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def build():
    torch.manual_seed(0)
    encoder = {"text_config": TEXT, "vision_config": VISION, "mm_tokens_per_image": 4}
    config = tr.T5Gemma2Config(encoder=encoder, decoder=TEXT, initializer_range=0.15, image_token_index=96)
    config.decoder_start_token_id = config.pad_token_id = config.bos_token_id = tiny.BOS
    return tr.T5Gemma2ForConditionalGeneration(config).eval()


def test_the_rotary_embedding_of_the_decoder_alone_is_found():
    anatomy = anatomy_of(build())
    seen = {(site.role, site.sees_encoder) for site in anatomy.sites.values()}
    assert seen == {("encoder", False), ("decoder", True)}
    assert anatomy.positions == {"decoder": [("model.decoder.rotary_emb", "float", None)]}


@pytest.mark.parametrize("family", ["llama", "gemma3", "t5", "bart"])
def test_where_attention_is_not_merged_rotary_positions_stay(family):
    anatomy = anatomy_of(tiny.build(family))
    assert not any(site.sees_encoder for site in anatomy.sites.values())
    assert not any(look_up.function == "float" for look_ups in anatomy.positions.values() for look_up in look_ups)


def greedy(model, e, y, steps):
    for _ in range(steps):
        logits = model(input_ids=e, decoder_input_ids=y, use_cache=False).logits
        y = torch.cat([y, logits[:, -1:].argmax(-1)], dim=1)
    return y


@torch.no_grad()
def test_a_prefix_of_real_tokens_is_these_tokens():
    base, e, c, y = build(), tiny.tokens(1, 8, seed=4), tiny.tokens(1, P, seed=7), tiny.tokens(1, 6)
    y[:, 0] = tiny.BOS  # else `generate` would put it there
    whole = torch.cat([c, y], dim=1)
    model = prefix_peft.wrap(build(), P, sites=["decoder"])
    assert prefix_peft.initialize_kv_prefix_from_tokens(model, e, decoder_input_ids=c) == 0
    assert model.peft_config["default"].position_mode == "shift"
    logits = model.eval()(input_ids=e, decoder_input_ids=y).logits
    torch.testing.assert_close(logits, base(input_ids=e, decoder_input_ids=whole).logits[:, P:], **EXACT)
    written = model.generate(input_ids=e, decoder_input_ids=y, max_new_tokens=8, do_sample=False)
    assert torch.equal(written, greedy(base, e, whole, 8)[:, P:])


@torch.no_grad()
def test_rows_begin_behind_their_own_prefixes():
    options = {"position_mode": "shift", "task_type": "SEQ_2_SEQ_LM"}
    model = prefix_peft.wrap(build(), P, position_mode="shift")
    model.add_adapter("long", PrefixConfig(num_virtual_tokens=P + 3, **options))
    tiny.fill(model).eval()
    given = {"input_ids": tiny.tokens(2, 8, seed=4), "decoder_input_ids": tiny.tokens(2, 6)}
    together = model(**given, adapter_names=["default", "long"]).logits
    for row, name in enumerate(["default", "long"]):
        model.set_adapter(name)
        own = model(**{key: value[row : row + 1] for key, value in given.items()}).logits
        torch.testing.assert_close(together[row : row + 1], own, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_unload_takes_the_shift_along():
    base, given = build(), {"input_ids": tiny.tokens(2, 8, seed=4), "decoder_input_ids": tiny.tokens(2, 6)}
    expected = base(**given).logits
    model = prefix_peft.wrap(base, P, position_mode="shift").eval()
    with model.disable_adapter():
        assert torch.equal(model(**given).logits, expected)
    assert torch.equal(model.unload()(**given).logits, expected)
    assert "forward" not in vars(base.model.decoder.rotary_emb)
