"""A prefix of real tokens against the base model that reads these tokens; the other starts against their promises."""

import pytest
import reference
import tiny
import torch
import transformers as tr

import prefix_peft
from prefix_peft import initialize_kv_prefix_from_text, initialize_kv_prefix_from_tokens

P = 5
EXACT = {"atol": 5e-5, "rtol": 0.0}  # promised are 1e-3; float32 rounds logits of 15 to 2e-6, through some twenty sums


def of_tokens(family, c, attn_implementation=None, **options):
    model = prefix_peft.wrap(tiny.build(family, attn_implementation=attn_implementation), P, **options)
    assert initialize_kv_prefix_from_tokens(model, c) == 0
    return model.eval()


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", tiny.CAUSAL)
@torch.no_grad()
def test_logits_equal_those_of_the_base_that_reads_the_tokens(family, attn_implementation):
    base, c, x = (
        tiny.build(family, attn_implementation=attn_implementation),
        tiny.tokens(1, P, seed=7),
        tiny.tokens(2, 9),
    )
    expected = base(torch.cat([c.expand(2, -1), x], dim=1)).logits[:, P:]
    model = of_tokens(family, c, attn_implementation)
    torch.testing.assert_close(model(x).logits, expected, **EXACT)
    assert (base(x).logits - expected).abs().max() > 0.1, "the tokens must matter"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_a_gate_opens_for_real_tokens(family):
    base, c, x = tiny.build(family), tiny.tokens(1, P, seed=7), tiny.tokens(2, 9)
    expected = base(torch.cat([c.expand(2, -1), x], dim=1)).logits[:, P:]
    torch.testing.assert_close(of_tokens(family, c, gate=True)(x).logits, expected, **EXACT)


@pytest.mark.parametrize("family", tiny.CAUSAL)
@torch.no_grad()
def test_greedy_generation_equals_that_of_the_base(family):
    base, c, x = tiny.build(family), tiny.tokens(1, P, seed=7), tiny.tokens(2, 6)
    expected = reference.greedy(base, torch.cat([c.expand(2, -1), x], dim=1), 8)[:, P:]
    assert torch.equal(of_tokens(family, c).generate(input_ids=x, max_new_tokens=8, do_sample=False), expected)


@pytest.mark.parametrize("family", tiny.CAUSAL)
@torch.no_grad()
def test_left_padded_rows_generate_what_they_generate_alone(family):
    model, rows = of_tokens(family, tiny.tokens(1, P, seed=7)), [tiny.tokens(1, 4, seed=1), tiny.tokens(1, 7, seed=2)]
    alone = [model.generate(input_ids=row, max_new_tokens=6, do_sample=False)[0, row.shape[1] :] for row in rows]
    padded = torch.full((2, 7), tiny.PAD)
    padded[0, 3:], padded[1] = rows[0], rows[1]
    mask = torch.ones_like(padded)
    mask[0, :3] = 0
    together = model.generate(input_ids=padded, attention_mask=mask, max_new_tokens=6, do_sample=False)[:, 7:]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("family", ["bart", "mbart", "marian"])
@torch.no_grad()
def test_decoder_prefix_of_an_encoder_decoder(family):
    base, e, c, y = tiny.build(family), tiny.tokens(1, P, seed=4), tiny.tokens(1, P, seed=7), tiny.tokens(1, 6)
    expected = base(input_ids=e, decoder_input_ids=torch.cat([c, y], dim=1)).logits[:, P:]
    model = prefix_peft.wrap(tiny.build(family), P, sites=["decoder"])
    initialize_kv_prefix_from_tokens(model, e, decoder_input_ids=c)
    torch.testing.assert_close(model.eval()(input_ids=e, decoder_input_ids=y).logits, expected, **EXACT)


@pytest.mark.parametrize("family", tiny.SEQ2SEQ)
@torch.no_grad()
def test_cross_prefix_is_more_encoder_states(family):
    base, c, e, y = tiny.build(family), tiny.tokens(1, P, seed=7), tiny.tokens(1, 8), tiny.tokens(1, 6, seed=3)
    states = torch.cat([base.get_encoder()(ids).last_hidden_state for ids in (c, e)], dim=1)
    expected = base(encoder_outputs=(states,), decoder_input_ids=y).logits
    model = prefix_peft.wrap(tiny.build(family), P, sites=["cross"])
    initialize_kv_prefix_from_tokens(model, c)
    assert model.peft_config["default"].position_mode == "keep", "the tokens never stood before the decoder's text"
    torch.testing.assert_close(model.eval()(input_ids=e, decoder_input_ids=y).logits, expected, **EXACT)


@torch.no_grad()
def test_encoder_prefix_of_one_layer():
    """Deeper encoders cannot be equal: in the base the tokens would have read the text too."""
    config = tr.BartConfig(**tiny.BART_LIKE | {"encoder_layers": 1})
    torch.manual_seed(0)
    base = tr.BartForConditionalGeneration(config).eval()
    c, e = tiny.tokens(1, P, seed=7), tiny.tokens(1, 8)
    expected = base.get_encoder()(torch.cat([c, e], dim=1)).last_hidden_state[:, P:]
    model = prefix_peft.wrap(base, P, sites=["encoder"])
    initialize_kv_prefix_from_tokens(model, c)
    torch.testing.assert_close(model.eval().get_encoder()(e).last_hidden_state, expected, **EXACT)


def test_masked_tokens_are_left_out():
    c = tiny.tokens(1, P + 2, seed=7)
    mask = torch.tensor([[0, 1, 1, 1, 0, 1, 1]])
    whole, masked = of_tokens("gpt2", c[mask.bool()]), prefix_peft.wrap(tiny.build("gpt2"), P)
    initialize_kv_prefix_from_tokens(masked, c, attention_mask=mask)
    pairs = zip(tiny.prefix_parameters(whole).values(), tiny.prefix_parameters(masked).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@torch.no_grad()
def test_the_mlp_is_fitted_to_the_tokens_and_states_its_residual():
    base, c, x = tiny.build("gpt2"), tiny.tokens(1, P, seed=7), tiny.tokens(2, 9)
    expected = base(torch.cat([c.expand(2, -1), x], dim=1)).logits[:, P:]
    model = prefix_peft.wrap(tiny.build("gpt2"), P, prefix_projection=True, encoder_hidden_size=64)
    residual = initialize_kv_prefix_from_tokens(model, c)
    assert 0 < residual < 0.02
    far = (base(x).logits - expected).abs().max()
    assert (model.eval()(x).logits - expected).abs().max() < 0.1 * far


@pytest.mark.parametrize("gate", [False, True])
@torch.no_grad()
def test_real_words_by_config(tmp_path, gate):
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    options = {"init_text": "t7 t8 t9", "tokenizer_name_or_path": str(tmp_path), "gate": gate}
    model = prefix_peft.wrap(tiny.build("llama"), P, **options)
    ids = torch.tensor(tokenizer("t7 t8 t9")["input_ids"])
    assert ids.tolist() == [7, 8, 9]
    spread = of_tokens_of_length("llama", ids)
    ours = {name: p for name, p in tiny.prefix_parameters(model).items() if not name.endswith("p_gate")}
    for (name, p), q in zip(ours.items(), tiny.prefix_parameters(spread).values(), strict=True):
        assert torch.equal(p[:, :3], q), name
        torch.testing.assert_close(p[:, 3:], q[:, :2], atol=0.1 * float(q.std()), rtol=0)
        assert not torch.equal(p[:, 3:], q[:, :2]), "copies must be able to part"
    gates = [p for name, p in tiny.prefix_parameters(model).items() if name.endswith("p_gate")]
    assert (len(gates) == 3 and not any(p.any() for p in gates)) if gate else not gates


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_text": "words"}, r"init_text='words' needs a tokenizer, and this LlamaForCausalLM was not loaded"),
        ({"init_text": "words", "tokenizer_name_or_path": "/no/where"}, "no/where"),
    ],
)
def test_a_start_that_cannot_be_made_leaves_the_model_as_it_was(options, message):
    base = tiny.build("llama")
    names = [name for name, _ in base.named_modules()]
    with pytest.raises((ValueError, OSError), match=message):
        prefix_peft.wrap(base, P, **options)
    assert [name for name, _ in base.named_modules()] == names and not hasattr(base, "peft_config")
    model = prefix_peft.wrap(base, P)
    with pytest.raises((ValueError, OSError), match=message):
        model.add_adapter("second", prefix_peft.PrefixConfig(task_type="CAUSAL_LM", **options))
    assert list(model.peft_config) == ["default"] and not any("second" in name for name, _ in model.named_modules())


def test_a_start_that_fails_leaves_the_model_as_it_was(monkeypatch):
    base = tiny.build("llama")
    names = [name for name, _ in base.named_modules()]

    def fail(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(prefix_peft.initialize, "read_activations", fail)
    with pytest.raises(MemoryError):
        prefix_peft.wrap(base, P)
    assert [name for name, _ in base.named_modules()] == names


def of_tokens_of_length(family, ids):
    model = prefix_peft.wrap(tiny.build(family), len(ids))
    initialize_kv_prefix_from_tokens(model, ids)
    return model


def test_text_must_be_exactly_as_long_as_the_prefix():
    model, tokenizer = prefix_peft.wrap(tiny.build("llama"), P), tiny.tokenizer()
    assert initialize_kv_prefix_from_text(model, tokenizer, text="t9 t8 t7 t6 t5") == 0
    before = [p.clone() for p in tiny.prefix_parameters(model).values()]
    with pytest.raises(ValueError, match=r"3 tokens cannot become the 5 virtual tokens of model.layers.0.self_attn"):
        initialize_kv_prefix_from_text(model, tokenizer, text="t9 t8 t7")
    assert all(torch.equal(p, q) for p, q in zip(tiny.prefix_parameters(model).values(), before, strict=True))
    with pytest.raises(ValueError, match="has no tokens"):
        initialize_kv_prefix_from_text(model, tokenizer, text=" ")


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (tiny.tokens(2, P), {}, r"one row of tokens, \(P,\) or \(1, P\), got shape \(2, 5\)"),
        (tiny.tokens(1, P), {"attention_mask": torch.ones(1, 4)}, r"attention_mask is \(1, 4\), input_ids is \(1, 5\)"),
        (
            tiny.tokens(1, P),
            {"adapter_name": "other"},
            r"no prefix 'other'; the prefixes of this model are \['default'\]",
        ),
    ],
)
def test_impossible_tokens(ids, options, message):
    with pytest.raises(ValueError, match=message):
        initialize_kv_prefix_from_tokens(prefix_peft.wrap(tiny.build("llama"), P), ids, **options)


def test_a_model_without_a_prefix_says_so():
    with pytest.raises(ValueError, match="LlamaForCausalLM carries no prefix; wrap it first"):
        initialize_kv_prefix_from_tokens(tiny.build("llama"), tiny.tokens(1, P))


@torch.no_grad()
def test_text_behind_a_shifted_prefix_may_not_run_past_the_table():
    model = of_tokens("gpt2", tiny.tokens(1, P))
    assert torch.isfinite(model(tiny.tokens(1, 128 - P)).logits).all()
    with pytest.raises(IndexError, match=r"position 128 is past the 128 learned positions.* 5 positions later"):
        model(tiny.tokens(1, 129 - P))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_a_closed_gate_starts_at_the_base_bit_for_bit(family):
    base, given = tiny.build(family), tiny.inputs(family)
    expected = base(**given).logits
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(prefix_peft.wrap(base, P, gate=True).eval()(**given).logits, expected)
