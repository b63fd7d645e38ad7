"""What a model shows of itself, and what may be chosen of it."""

import pytest
import tiny
import torch
import transformers as tr

import prefix_peft
from prefix_peft.anatomy.watching import anatomy_of


def shapes(family):
    sites = anatomy_of(tiny.build(family)).sites.values()
    return [(site.role, site.num_key_value_heads, site.key_dim, site.value_dim) for site in sites]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
def test_grouped_heads_are_seen(family):
    assert shapes(family) == [("decoder", 2, 14, 14)] * 3


def test_encoder_decoder_and_cross_attention_are_told_apart():
    assert shapes("bart") == [("encoder", 4, 11, 11)] * 2 + [("decoder", 4, 11, 11), ("cross", 4, 11, 11)] * 3
    assert shapes("t5") == [("encoder", 4, 13, 13)] * 3 + [("decoder", 4, 13, 13), ("cross", 4, 13, 13)] * 3


@pytest.mark.parametrize(
    ("family", "tables"),
    [
        ("gpt2", {"decoder": "transformer.wpe"}),
        ("opt", {"decoder": "model.decoder.embed_positions"}),
        ("bart", {"encoder": "model.encoder.embed_positions", "decoder": "model.decoder.embed_positions"}),
        ("llama", {}),
        ("t5", {}),
    ],
)
def test_learned_position_tables_are_found(family, tables):
    positions = anatomy_of(tiny.build(family)).positions
    assert positions == {role: [(table, "embedding", "weight")] for role, table in tables.items()}


def test_encoders_alone_have_encoder_sites_and_tables():
    sizes = {"hidden_size": 22, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 13}
    bert = tr.BertForSequenceClassification(tr.BertConfig(vocab_size=53, **sizes))
    anatomy = anatomy_of(bert)
    assert [(site.role, site.key_dim) for site in anatomy.sites.values()] == [("encoder", 11)] * 2
    assert anatomy.positions == {"encoder": [("bert.embeddings.position_embeddings", "embedding", "weight")]}
    model = prefix_peft.wrap(bert, 3, position_mode="shift").eval()
    assert model.peft_config["default"].task_type == "SEQ_CLS"
    ids = tiny.tokens(1, 4) % 53
    shifted = model(ids).logits
    model.peft_config["default"].position_mode = "keep"
    own = torch.arange(3, 7)[None]
    torch.testing.assert_close(model(ids, position_ids=own).logits, shifted)


@pytest.mark.parametrize(
    ("head", "task_type"),
    [(tr.BartForSequenceClassification, "SEQ_CLS"), (tr.BartForQuestionAnswering, "QUESTION_ANS")],
)
def test_encoder_decoders_with_a_head(head, task_type):
    """BART's classifier reads the state of the one end that each text must have; a trial has none."""
    model = tiny.fill(prefix_peft.wrap(head(tr.BartConfig(**tiny.BART_LIKE)).eval(), 3))
    assert model.peft_config["default"].task_type == task_type
    ids = tiny.tokens(2, 6)
    ids[:, -1] = tiny.EOS
    answer = model(input_ids=ids)[0]
    with model.disable_adapter():
        assert (model(input_ids=ids)[0] - answer).abs().max() > 0.01


def test_a_list_of_tables_is_read_by_its_first():
    sizes = {"hidden_size": 22, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 13, "num_codebooks": 1}
    model = tr.MusicgenForCausalLM(tr.MusicgenDecoderConfig(vocab_size=53, pad_token_id=52, bos_token_id=52, **sizes))
    assert [site.role for site in anatomy_of(model).sites.values()][:1] == ["decoder"]


def test_watching_changes_nothing():
    model = tiny.build("gpt2").train()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    anatomy_of(model)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_may_be_watched_where_there_are_no_gradients():
    with torch.inference_mode():
        assert len(anatomy_of(tiny.build("llama")).sites) == 3


def test_models_without_such_attention_are_refused_by_name():
    sizes = {"vocab_size": 53, "hidden_size": 12, "num_hidden_layers": 1}
    mamba = tr.MambaForCausalLM(tr.MambaConfig(state_size=4, **sizes))
    with pytest.raises(ValueError, match="MambaForCausalLM cannot be served: no attention"):
        prefix_peft.wrap(mamba)
    assert not hasattr(mamba, "peft_config")


def sites_of(model):
    return [name for name, _ in tiny.prefix_parameters(model.get_base_model()).items() if name.endswith("p_key")]


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"sites": ["cross"]}, ["model.decoder.layers.0.encoder_attn", "model.decoder.layers.1.encoder_attn",
                                "model.decoder.layers.2.encoder_attn"]),
        ({"target_modules": ["encoder_attn"], "layers_to_transform": [0, 2]},
         ["model.decoder.layers.0.encoder_attn", "model.decoder.layers.2.encoder_attn"]),
        ({"target_modules": r".*encoder\.layers\.1\.self_attn"}, ["model.encoder.layers.1.self_attn"]),
        ({"exclude_modules": ["self_attn"], "layers_to_transform": 1}, ["model.decoder.layers.1.encoder_attn"]),
        ({"layers_to_transform": 2}, ["model.decoder.layers.2.self_attn", "model.decoder.layers.2.encoder_attn"]),
    ],
)  # fmt: skip
def test_sites_are_chosen_as_lora_chooses_modules(options, chosen):
    model = prefix_peft.wrap(tiny.build("bart"), 3, **options)
    assert sites_of(model) == [f"{name}.prefix_kv.prefix_kv_encoder.default.p_key" for name in chosen]


def test_lengths_by_pattern():
    model = prefix_peft.wrap(tiny.build("bart"), 3, num_virtual_tokens_pattern={"encoder_attn": 5, r"layers\.0": 2})
    lengths = {name: p.shape[1] for name, p in tiny.prefix_parameters(model).items() if name.endswith("p_key")}
    assert {length for name, length in lengths.items() if "encoder_attn" in name} == {5}
    assert {length for name, length in lengths.items() if "layers.0.self_attn" in name} == {2}
    assert {length for name, length in lengths.items() if "layers.1.self_attn" in name} == {3}
    assert torch.isfinite(model(**tiny.inputs("bart")).logits).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": ["cross"]}, r"sites=\['cross'\] asks for \['cross'\]; GPT2LMHeadModel has \['decoder'\]"),
        (
            {"target_modules": ["q_proj"]},
            "No attention module of GPT2LMHeadModel matches target_modules=.*transformer.h.0",
        ),
        ({"layers_to_transform": [9]}, "No attention module"),
        ({"num_virtual_tokens_pattern": {"encoder": 3}}, "'encoder', which fits none"),
    ],
)
def test_requests_that_the_model_cannot_meet(options, message):
    base = tiny.build("gpt2")
    with pytest.raises(ValueError, match=message):
        prefix_peft.wrap(base, **options)
    assert not any("prefix" in name for name, _ in base.named_modules()) and not hasattr(base, "peft_config")


def test_positions_cannot_be_shifted_where_there_is_no_table():
    with pytest.raises(ValueError, match="LlamaForCausalLM has no table of learned"):
        prefix_peft.wrap(tiny.build("llama"), position_mode="shift")
