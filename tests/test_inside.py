"""Looking inside a prefix: means, norms, nearest words and comparisons, against loops."""

import json

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model

import prefix_peft
from prefix_peft.inside import attention_mass, compare, nearest_words, observe, read_release
from prefix_peft.inside.heatmap import maps_of_norms
from prefix_peft.inside.release import in_layer_order
from prefix_peft.layer import prefix_layers

P = 5


def wrapped(family="llama", length=P, **options):
    return tiny.fill(prefix_peft.wrap(tiny.build(family), length, **options)).eval()


@pytest.mark.parametrize("target", [None, "t45 t46 t47"])
@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_the_mass_of_a_text(family, target):
    """The tokens are those of training, and the means those of the weights."""
    model, read = wrapped(family), tiny.tokenizer()
    masses = attention_mass(model, read, "t7 t8 t9", target, separator=" t4" if family == "gpt2" else None)
    written = ["t45", "t46", "t47"] if target else []
    if family == "gpt2":
        ids = [7, 8, 9, 4, *([45, 46, 47, tiny.EOS] if target else [])]
        given, texts = {"input_ids": ids}, {"decoder": [f"t{i}" for i in ids]}
    else:
        given = {"input_ids": [7, 8, 9], "decoder_input_ids": [tiny.BOS, *(int(t[1:]) for t in written)]}
        texts = {"encoder": ["t7", "t8", "t9"], "decoder": ["t1", *written], "cross": ["t1", *written]}
    with observe(model) as seen, torch.no_grad():
        model(**{name: torch.tensor([ids]) for name, ids in given.items()})
    assert [mass.site for mass in masses.sites] == seen.sites and set(masses.roles) == set(texts)
    for mass in masses.sites:
        assert masses.texts[mass.site.role] == texts[mass.site.role]
        weights = seen.weights(mass.site.name)[0]
        heads, queries, length = weights.shape
        for h in range(heads):
            mean = sum(float(weights[h, t, j]) for t in range(queries) for j in range(length)) / queries
            assert float(mass.heads[h]) == pytest.approx(mean, rel=1e-5)
        for t in range(queries):
            mean = sum(float(weights[h, t, j]) for h in range(heads) for j in range(length)) / heads
            assert float(mass.tokens[t]) == pytest.approx(mean, rel=1e-5)
        for j in range(length):
            mean = sum(float(weights[h, t, j]) for h in range(heads) for t in range(queries)) / heads / queries
            assert float(mass.virtual[j]) == pytest.approx(mean, rel=1e-5)


def test_what_has_no_mass_is_refused():
    model, read = wrapped("gpt2", position_mode="shift"), tiny.tokenizer()
    for text, target in ((" ", None), ("t7", "")):
        with pytest.raises(ValueError, match="attention is paid while a text is read; give one with words"):
            attention_mass(model, read, text, target, " t4")
    read.model_max_length = 20
    assert len(attention_mass(model, read, "t7 " * (20 - P - 1), separator=" t4").texts["decoder"]) == 15
    for length in (15, 20):  # the first would fit without a prefix, the second not even then
        with pytest.raises(ValueError, match="longer than the 15 tokens that the model reads beside its prefix"):
            attention_mass(model, read, "t7 " * length, separator=" t4")
    with model.disable_adapter(), pytest.raises(ValueError, match="no prefix was active while the text was read"):
        attention_mass(model, read, "t7", separator=" t4")


@pytest.mark.parametrize(
    ("family", "sites"), [("llama", None), ("gpt2", None), ("bart", None), ("bart", ["encoder"]), ("t5", None)]
)
def test_the_words_nearest_to_a_prefix_made_of_words_are_these_words(family, sites):
    model, ids = prefix_peft.wrap(tiny.build(family), P, sites=sites), tiny.tokens(1, P, seed=7)
    prefix_peft.initialize_kv_prefix_from_tokens(model, ids)
    found = nearest_words(model, tiny.tokenizer(), 3)
    assert [near.words[0].text for near in found] == [f"t{token}" for token in ids[0].tolist()]
    for near in found:
        first, second, third = ((word.key_cosine + word.value_cosine) / 2 for word in near.words)
        assert near.words[0].key_cosine == pytest.approx(1, abs=1e-4)
        assert near.words[0].value_cosine == pytest.approx(1, abs=1e-4)
        assert first > second >= third > near.median


def test_words_of_no_encoder_or_decoder():
    with pytest.raises(ValueError, match="no encoder or decoder site has a prefix 'default'"):
        nearest_words(wrapped("bart", sites=["cross"]), tiny.tokenizer())


def saved(path, seed=3, **options):
    model = prefix_peft.wrap(tiny.build("llama"), **options)
    tiny.fill(model, seed).save_pretrained(path)
    return model


@pytest.mark.parametrize("options", [{}, {"gate": "token"}, {"num_virtual_tokens_pattern": {"layers.1.": 2}}])
@torch.no_grad()
def test_a_release_is_read_without_its_model(tmp_path, options):
    model = saved(tmp_path, num_virtual_tokens=P, **options)
    release = read_release(str(tmp_path))
    assert [site.name for site in release.sites] == [f"model.layers.{i}.self_attn" for i in range(3)]
    for layer, site in zip(prefix_layers(model), release.sites, strict=True):
        encoder = layer.encoder("default")
        for side, norms in zip((encoder.p_key, encoder.p_value), site.norms(), strict=True):
            assert len(norms) == side.shape[1]
            for j, norm in enumerate(norms):
                assert float(norm) == pytest.approx(sum(float(n) ** 2 for n in side[:, j].flatten()) ** 0.5, rel=1e-5)
    numbers = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert release.facts["numbers"].startswith(f"{numbers:,} in float32")
    assert release.facts["virtual tokens"] == ("2, 5" if "num_virtual_tokens_pattern" in options else "5")
    keys, values = maps_of_norms(release)
    assert keys.numbers[0] == release.sites[0].norms()[0].tolist() and values.rows == ["0", "1", "2"]
    assert sum(number != number for number in keys.numbers[1]) == (3 if "num_virtual_tokens_pattern" in options else 0)


def test_layers_are_in_the_order_of_their_numbers():
    names = [f"model.layers.{i}.{of}" for i in (0, 2, 10) for of in ("cross", "self")]
    assert sorted(reversed(names), key=in_layer_order) == names


def test_what_is_known_of_the_training(tmp_path):
    saved(tmp_path, num_virtual_tokens=P, prefix_projection=True, encoder_hidden_size=11)
    log = [{"step": 1, "loss": 4.0}, {"step": 7, "loss": 2.5, "validation_loss": 3.25}]
    (tmp_path / "training_log.json").write_text(json.dumps({"step": 1200, "seconds": 61.4, "log": log}))
    facts = read_release(str(tmp_path)).facts
    assert facts["training"] == "1,200 steps, 61 s" and facts["training loss"] == "4.000 at first, 2.500 at last"
    assert facts["validation loss"] == "3.250 at first, 3.250 at last"
    assert facts["trained with"] == "encoder_hidden_size=11, prefix_projection=True"
    for strange in ({"step": "x", "log": 3}, {"log": [None, {"loss": "low"}]}):
        (tmp_path / "training_log.json").write_text(json.dumps(strange))
        assert "training loss" not in read_release(str(tmp_path)).facts


def test_other_adapters_are_refused(tmp_path):
    get_peft_model(tiny.build("llama"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds .*LORA and no prefix of keys and values"):
        read_release(str(tmp_path))
    saved(tmp_path / "prefix", num_virtual_tokens=P)
    (tmp_path / "prefix" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no adapter_model\.safetensors"):
        read_release(str(tmp_path / "prefix"))


def cosine(a, b):
    a, b = a.flatten().tolist(), b.flatten().tolist()
    dot, *squares = (sum(x * y for x, y in zip(u, v, strict=True)) for u, v in ((a, b), (a, a), (b, b)))
    return dot / (squares[0] * squares[1]) ** 0.5


def test_two_prefixes_compared(tmp_path):
    for i in range(2):
        saved(tmp_path / str(i), seed=i, num_virtual_tokens=P)
    ours, theirs = (read_release(str(tmp_path / str(i))) for i in range(2))
    found = compare(ours, theirs)
    pairs = list(zip(ours.sites, theirs.sites, strict=True))
    for site, (a, b) in zip(found.sites, pairs, strict=True):
        assert site.key_cosine == pytest.approx(cosine(a.key, b.key), abs=1e-5)
        assert site.value_cosine == pytest.approx(cosine(a.value, b.value), abs=1e-5)
        assert site.key_distance == pytest.approx(float((a.key - b.key).square().sum() / a.key.square().sum()) ** 0.5)
        assert site.value_distance == pytest.approx(
            float((a.value - b.value).square().sum() / a.value.square().sum()) ** 0.5
        )
    for j in range(P):
        keys = [cosine(a.key[:, j], b.key[:, j]) for a, b in pairs]
        values = [cosine(a.value[:, j], b.value[:, j]) for a, b in pairs]
        assert float(found.key_cosine[j]) == pytest.approx(sum(keys) / 3, abs=1e-5)
        assert float(found.value_cosine[j]) == pytest.approx(sum(values) / 3, abs=1e-5)


def test_a_prefix_in_another_order_is_found(tmp_path):
    model, order = saved(tmp_path / "a", num_virtual_tokens=P), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        for parameter in tiny.prefix_parameters(model).values():
            parameter.copy_(2 * parameter[:, order])
    model.save_pretrained(tmp_path / "b")
    ours, theirs = read_release(str(tmp_path / "a")), read_release(str(tmp_path / "b"))
    found = compare(ours, theirs)
    assert found.nearest.tolist() == order.argsort().tolist()
    torch.testing.assert_close(found.nearest_cosine, torch.ones(P))
    assert compare(ours, ours).distance.tolist() == [0] * P
    torch.testing.assert_close(compare(ours, ours).key_cosine, torch.ones(P))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_virtual_tokens": 4}, r"model.layers.0.self_attn has a key of \(2, 5, 14\) in .* and of \(2, 4, 14\)"),
        ({"num_virtual_tokens": P, "layers_to_transform": [0, 1]}, "do not have the same sites: .*layers.2.self_attn"),
    ],
)
def test_what_cannot_be_compared(tmp_path, options, message):
    saved(tmp_path / "a", num_virtual_tokens=P)
    saved(tmp_path / "b", **options)
    with pytest.raises(ValueError, match=message):
        compare(*(read_release(str(tmp_path / name)) for name in "ab"))


def test_tokens_without_counterparts(tmp_path):
    saved(tmp_path, num_virtual_tokens=P, num_virtual_tokens_pattern={"layers.1.": 2})
    release = read_release(str(tmp_path))
    with pytest.raises(ValueError, match=r"has \[2, 5\] virtual tokens, by site"):
        compare(release, release)
