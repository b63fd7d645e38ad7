"""Models that see or hear: the prefix goes to whatever attends when the model reads, and the rest stays as it is."""

import peft
import pytest
import tiny
import tiny_multimodal as mm
import torch
import transformers as tr

import prefix_peft
from prefix_peft import initialize_kv_prefix_from_text, initialize_kv_prefix_from_tokens
from prefix_peft.anatomy.watching import anatomy_of

P = 5
EXACT = {"atol": 5e-5, "rtol": 0.0}  # float32 rounds logits of 15 to 2e-6, through some twenty sums


@pytest.mark.parametrize("family", mm.SEEING)
@torch.no_grad()
def test_a_model_that_also_sees_has_its_prefix_in_the_text(family):
    base, given = mm.build(family), mm.image_and_text(family)
    attending = [name for name, _ in base.named_modules() if name.endswith(".self_attn")]
    sites = [name for name in attending if not {"vision_tower", "vision_model", "visual"} & set(name.split("."))]
    assert list(anatomy_of(base).sites) == sites and len(sites) == 3
    expected = base(**given).logits
    assert not torch.allclose(base(**mm.image_and_text(family, seed=1)).logits, expected, atol=0.1), "it must see"
    model = tiny.fill(prefix_peft.wrap(base, P)).eval()
    assert isinstance(model, peft.PeftModelForCausalLM)
    assert not torch.allclose(model(**given).logits, expected, atol=0.1)
    with model.disable_adapter():
        assert torch.equal(model(**given).logits, expected)


@pytest.mark.parametrize("family", mm.SEEING)
@torch.no_grad()
def test_words_as_a_prefix_before_an_image(family):
    """Also where an image has positions in three dimensions: the words take -P..-1 in each of them."""
    base, c = mm.build(family), torch.arange(20, 20 + P)[None]
    expected = base(**mm.image_and_text(family, before=c)).logits[:, P:]
    given = mm.image_and_text(family)
    assert (base(**given).logits - expected).abs().max() > 0.1, "the words must matter"
    model = prefix_peft.wrap(base, P).eval()
    assert initialize_kv_prefix_from_tokens(model, c) == 0
    torch.testing.assert_close(model(**given).logits, expected, **EXACT)


@pytest.mark.parametrize("family", mm.SEEING)
@torch.no_grad()
def test_generation_behind_an_image_equals_uncached_steps(family):
    model = tiny.fill(prefix_peft.wrap(mm.build(family), P)).eval()
    new = torch.zeros(1, 0, dtype=torch.long)
    for _ in range(6):
        step = model(**mm.image_and_text(family, after=new), use_cache=False).logits[:, -1:].argmax(-1)
        new = torch.cat([new, step], dim=1)
    given = mm.image_and_text(family)
    out = model.generate(**given, max_new_tokens=6, do_sample=False)
    assert torch.equal(out, torch.cat([given["input_ids"], new], dim=1))


@pytest.mark.parametrize("family", mm.SEEING)
def test_training_on_an_image_moves_the_prefix_alone(family, tmp_path):
    model, given = prefix_peft.wrap(mm.build(family), P).train(), mm.image_and_text(family)
    learns(model, given | {"labels": given["input_ids"]})
    model.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(mm.build(family), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**given).logits, model(**given).logits)


def learns(model, given):
    """One step of SGD changes every parameter of the prefix, and nothing else."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**given).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "prefix_kv_encoder" in name}
    for name, parameter in tiny.prefix_parameters(model).items():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("family", mm.HEARING)
def test_encoders_of_sound_and_pixels_are_served_in_every_role(family):
    sites = anatomy_of(mm.build(family)).sites.values()
    layers = 3 if family in ("whisper", "speech_to_text") else 2
    assert [site.role for site in sites] == ["encoder"] * 2 + ["decoder", "cross"] * layers


@pytest.mark.parametrize("family", mm.HEARING)
@torch.no_grad()
def test_each_role_matters_and_disabling_gives_the_bits_of_the_base(family):
    base, given = mm.build(family), mm.source_and_text(family)
    expected = base(**given).logits
    for role in ("encoder", "decoder", "cross"):
        model = tiny.fill(prefix_peft.wrap(base, P, sites=[role])).eval()
        assert not torch.allclose(model(**given).logits, expected, atol=1e-3), role
        with model.disable_adapter():
            assert torch.equal(model(**given).logits, expected)
        model.unload()


@pytest.mark.parametrize("family", mm.HEARING)
def test_training_on_sound_or_pixels_moves_the_prefix_alone(family, tmp_path):
    base, given = mm.build(family), mm.source_and_text(family)
    base.save_pretrained(tmp_path / "base")
    model = prefix_peft.wrap(type(base).from_pretrained(tmp_path / "base"), P).train()
    starts = list(tiny.prefix_parameters(model).values())
    assert all(p.isfinite().all() and p.std() > 0 for p in starts), "real activations, of noise"
    learns(
        model,
        {key: value for key, value in given.items() if "decoder" not in key} | {"labels": given["decoder_input_ids"]},
    )
    model.eval().save_pretrained(tmp_path / "prefix")
    again = peft.AutoPeftModel.from_pretrained(tmp_path / "prefix").eval()
    assert type(again.get_base_model()) is type(base)
    with torch.no_grad():
        assert torch.equal(again(**given).logits, model(**given).logits)


@pytest.mark.parametrize("family", mm.HEARING)
@torch.no_grad()
def test_generation_from_sound_or_pixels_equals_uncached_steps(family):
    model, given = tiny.fill(prefix_peft.wrap(mm.build(family), P)).eval(), mm.source_and_text(family)
    source = {key: value for key, value in given.items() if "decoder" not in key}
    decoded = torch.full((2, 1), tiny.BOS)
    for _ in range(6):
        logits = model(**source, decoder_input_ids=decoded, use_cache=False).logits
        decoded = torch.cat([decoded, logits[:, -1:].argmax(-1)], dim=1)
    out = model.generate(**source, max_new_tokens=6, do_sample=False)
    assert torch.equal(out[:, -6:], decoded[:, -6:])


@pytest.mark.parametrize("family", ["whisper", "speech_to_text"])
@torch.no_grad()
def test_a_prefix_of_cross_attention_is_more_states_of_the_encoder(family):
    base, given, more = mm.build(family), mm.source_and_text(family), mm.noise(1, P, 44, seed=4)
    source = next(value for key, value in given.items() if "decoder" not in key)
    states = torch.cat([more.expand(2, -1, -1), base.get_encoder()(source).last_hidden_state], dim=1)
    expected = base(encoder_outputs=(states,), decoder_input_ids=given["decoder_input_ids"]).logits
    model = prefix_peft.wrap(base, P, sites=["cross"]).eval()
    for name, parameter in tiny.prefix_parameters(base).items():
        attention = base.get_submodule(name.split(".prefix_kv")[0])
        projection = attention.k_proj if name.endswith("p_key") else attention.v_proj
        parameter.copy_(projection(more)[0].unflatten(-1, (4, 11)).transpose(0, 1))
    torch.testing.assert_close(model(**given).logits, expected, **EXACT)


@torch.no_grad()
def test_the_start_is_in_the_precision_of_the_encoder():
    model = prefix_peft.wrap(mm.build("whisper").bfloat16(), P).eval()
    assert {p.dtype for p in tiny.prefix_parameters(model).values()} == {torch.float32}
    given = mm.source_and_text("whisper")
    given["input_features"] = given["input_features"].bfloat16()
    assert model(**given).logits.isfinite().all()


@torch.no_grad()
def test_a_prefix_longer_than_the_sound_has_states_repeats_them():
    model = prefix_peft.wrap(mm.build("whisper"), 23, sites=["encoder"])
    for p_key in tiny.prefix_parameters(model).values():
        torch.testing.assert_close(p_key[:, 20:], p_key[:, :3], atol=0.1 * float(p_key.std()), rtol=0)


@torch.no_grad()
def test_positions_of_a_decoder_of_sound_can_be_shifted():
    """Whisper indexes its table of learned positions; those of its encoder are all in use."""
    found = anatomy_of(mm.build("whisper")).positions
    assert found == {"decoder": [("model.decoder.embed_positions", "__getitem__", "weight")]}
    model = tiny.fill(prefix_peft.wrap(mm.build("whisper"), P, position_mode="shift")).eval()
    given = mm.source_and_text("whisper")
    shifted = model(**given).logits
    step = model.generate(given["input_features"], max_new_tokens=6, do_sample=False)
    model.peft_config["default"].position_mode = "keep"
    assert not torch.allclose(model(**given).logits, shifted, atol=1e-3)
    own = {"decoder_position_ids": torch.arange(P, P + 5)[None].expand(2, -1)}
    torch.testing.assert_close(model(**given, **own).logits, shifted, **EXACT)
    assert not torch.equal(model.generate(given["input_features"], max_new_tokens=6, do_sample=False), step)


def test_words_cannot_become_the_prefix_of_an_encoder_of_sound():
    model = prefix_peft.wrap(mm.build("whisper"), P)
    with pytest.raises(ValueError, match="encoder of WhisperForConditionalGeneration reads input_features, so no"):
        initialize_kv_prefix_from_tokens(model, tiny.tokens(1, P))
    with pytest.raises(ValueError, match="reads input_features"):
        initialize_kv_prefix_from_text(model, lambda *_, **__: {"input_ids": [7] * P}, "a b c d e")
    with pytest.raises(ValueError, match=r"reads input_features.*Leave init_text out"):
        prefix_peft.wrap(mm.build("whisper"), P, init_text="words")


def test_an_encoder_that_takes_no_such_input_is_refused_by_name():
    base = mm.build("vit_gpt2")
    base.encoder.config.image_size = 24
    with pytest.raises(ValueError, match=r"VisionEncoderDecoderModel cannot be served.*pixel_values.*\(1, 3, 24, 24\)"):
        prefix_peft.wrap(base, P)
    assert not any("prefix" in name for name, _ in base.named_modules())


def test_a_model_that_only_sees_is_refused_by_name():
    base = tr.ViTForImageClassification(tr.ViTConfig(**mm.VISION))
    with pytest.raises(ValueError, match="ViTForImageClassification cannot be served: it reads pixel_values"):
        prefix_peft.wrap(base, P)
