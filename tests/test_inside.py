"""Looking inside a prefix: the shares of attention against loops and eager weights, and what is written of them."""

import json
import re
from html.parser import HTMLParser

import handmade
import pytest
import tiny
import torch
import transformers as tr
from peft import LoraConfig, get_peft_model
from test_turns import diffllama
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

import prefix_peft
from prefix_peft import PrefixConfig, hook
from prefix_peft.__main__ import main
from prefix_peft.anatomy.sites import Site
from prefix_peft.by_hand.modes import Serve
from prefix_peft.inside import attention_mass, compare, nearest_words, observe, read_release
from prefix_peft.inside.colours import ANCHORS, colour
from prefix_peft.inside.heatmap import HeatMap, maps_of_norms, short_names
from prefix_peft.inside.page import page
from prefix_peft.inside.release import in_layer_order
from prefix_peft.inside.shades import shaded
from prefix_peft.layer import prefix_layers

P = 5
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # float32: sums of fewer than fifty terms, scores of a few units


def wrapped(family="llama", length=P, **options):
    return tiny.fill(prefix_peft.wrap(tiny.build(family), length, **options)).eval()


def by_definition(query, key, allowed, p_key, gate=None, bias=None, scale=None):
    """The shares (B, H, T, P), one query at a time: query (B, H, T, D), key (B, G, S, D), allowed (B, T, S), p_key one
    (G, P, D) a row, gate (G, P), bias (H, T, S); and sigmoid(l_p - l_s), which is their sum, where there is no gate."""
    (batch, heads, queries, dim), groups = query.shape, key.shape[1]
    shares, masses = [], []
    for b in range(batch):
        for h in range(heads):
            for t in range(queries):
                g, asked, seen = h // (heads // groups), query[b, h, t].double(), allowed[b, t].nonzero()[:, 0]
                factor = dim**-0.5 if scale is None else scale
                own = key[b, g, seen].double() @ asked * factor + (0.0 if bias is None else bias[h, t, seen].double())
                ours = p_key[b][g].double() @ asked * factor
                z = ours.exp() * (1.0 if gate is None else gate[g].abs().double())
                shares.append(z / (z.sum() + own.exp().sum()))
                masses.append(torch.sigmoid(ours.logsumexp(0) - own.logsumexp(0)))
    return torch.stack(shares).view(batch, heads, queries, -1), torch.stack(masses).view(batch, heads, queries)


@pytest.fixture
def spied(monkeypatch):
    """All calls of attention with their prefixes, by module."""
    calls = {}
    attend = hook.attend_with_prefix

    def spy(call, prefix, form="auto"):
        calls.setdefault(call.module, []).append((call, prefix))
        return attend(call, prefix, form)

    monkeypatch.setattr(hook, "attend_with_prefix", spy)
    return calls


def site_calls(model, calls):
    """The one call of each site, by its name."""
    return {layer.site.name: calls[layer.get_base_layer()] for layer in prefix_layers(model)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize(("implementation", "form"), [("sdpa", "merged"), ("sdpa", "joined"), ("eager", "auto")])
@torch.no_grad()
def test_the_eager_weights_of_a_model_that_has_the_prefix_in_its_cache(family, implementation, form):
    ids, cache = tiny.tokens(2, 7), DynamicCache()
    model = tiny.fill(prefix_peft.wrap(tiny.build(family, attn_implementation=implementation), P, attention_form=form))
    for i, layer in enumerate(prefix_layers(model)):
        cache.update(*(side[None].expand(2, -1, -1, -1) for side in layer.encoder("default")()), i)
    base = tiny.build(family, attn_implementation="eager")
    places = torch.arange(7).expand(2, -1)
    theirs = base(ids, past_key_values=cache, position_ids=places, output_attentions=True).attentions
    with observe(model) as seen:
        model(ids)
    assert len(seen.sites) == len(theirs)
    for site, weights in zip(seen.sites, theirs, strict=True):
        torch.testing.assert_close(seen.weights(site.name), weights[..., :P], **EXACT)


@pytest.mark.parametrize("gate", [False, True, "token"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_windows_padding_and_gates(spied, gate, implementation):
    base = tiny.build("mistral", attn_implementation=implementation, sliding_window=4)
    model = tiny.fill(prefix_peft.wrap(base, P, gate=gate)).eval()
    ids, mask = tiny.tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :2] = 0
    with observe(model) as seen:
        model(ids, attention_mask=mask)
    far = torch.arange(7)[:, None] - torch.arange(7)
    allowed = (far >= 0) & (far < 4) & mask.bool()[:, None]
    for layer in prefix_layers(model):
        ((call, _),) = spied[layer.get_base_layer()]
        (key, _), open_ = layer.encoder("default")(), layer.encoder("default").p_gate
        open_ = None if open_ is None else open_.view(2, -1).expand(2, P)
        shares, masses = by_definition(call.query, call.key, allowed, [key, key], open_)
        ours = seen.weights(layer.site.name)
        shown = mask.bool()[:, None, :, None].expand_as(ours)  # what padding sees is nobody's business
        torch.testing.assert_close(ours[shown], shares.float()[shown], **EXACT)
        if not gate:
            torch.testing.assert_close(ours.sum(-1)[shown[..., 0]], masses.float()[shown[..., 0]], **EXACT)


@pytest.mark.parametrize("family", ["bart", "t5"])
@torch.no_grad()
def test_encoder_decoder_and_cross_sites(spied, family):
    model, given = wrapped(family), tiny.inputs(family)
    with observe(model) as seen:
        model(**given)
    queries = {"encoder": 9, "decoder": 7, "cross": 7}
    for layer in prefix_layers(model):
        ((call, _),) = spied[layer.get_base_layer()]
        site, (key, _), bias = layer.site, layer.encoder("default")(), call.options.get("position_bias")
        allowed = torch.ones(2, call.query.shape[2], call.key.shape[2]).bool()
        allowed = allowed.tril() if site.role == "decoder" else allowed
        bias = None if bias is None else bias.expand(1, -1, *allowed.shape[1:])[0].clamp(min=-100)  # no mask in it
        shares, _ = by_definition(call.query, call.key, allowed, [key, key], bias=bias, scale=call.options["scaling"])
        assert seen.weights(site.name).shape == (2, 4, queries[site.role], P)
        torch.testing.assert_close(seen.weights(site.name), shares.float(), **EXACT)


@torch.no_grad()
def test_rows_with_prefixes_of_their_own(spied):
    model = wrapped()
    model.add_adapter("b", PrefixConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    tiny.fill_adapter(model, "b", seed=8)
    ids = tiny.tokens(3, 6)
    with observe(model) as seen:
        model(ids, adapter_names=["b", "__base__", "default"])
    allowed = torch.ones(3, 6, 6).tril().bool()
    for layer in prefix_layers(model):
        ((call, _),) = spied[layer.get_base_layer()]
        ours = seen.weights(layer.site.name)
        for row, name in ((0, "b"), (2, "default")):
            key, _ = layer.encoder(name)()
            one = (tensor[row : row + 1] for tensor in (call.query, call.key, allowed))
            torch.testing.assert_close(
                ours[row, ..., : key.shape[1]], by_definition(*one, [key])[0][0].float(), **EXACT
            )
        assert ours[0, ..., 2:].count_nonzero() == ours[1].count_nonzero() == 0


IN_BLOCKS = ("a block a query", "heads among the queries")
IN_ONE_CALL = {"forward": lambda q, k, v: scaled_dot_product_attention(q, k, v, handmade.FORBIDDEN)}
BY_HAND = (
    handmade.WAYS
    | {"one call": IN_ONE_CALL}
    | {f"shared keys, {way}": steps for way, steps in handmade.SHARED_KEYS.items()}
)


def seen_by_hand(way, gate=None):
    """What an observer is told, and the inputs."""
    hand, seen = handmade.Hand(**BY_HAND[way]), []
    heads = 1 if way.startswith("shared") else handmade.H
    site = Site("", "decoder", heads, handmade.D, handmade.V, by_hand=True)
    given = handmade.prefix(heads=heads, gate=gate)
    with Serve(hand, site, lambda batch: given, lambda module, weights: seen.append(weights)):
        hand(*handmade.qkv(heads))
    return seen, handmade.qkv(heads), [given.key[0]] * handmade.B


@pytest.mark.parametrize("way", BY_HAND)
def test_attention_by_hand(way):
    if way.endswith(IN_BLOCKS):
        with pytest.raises(NotImplementedError, match="Hand attends in blocks or streams of queries"):
            seen_by_hand(way)
        return
    (weights,), (query, key, _), p_key = seen_by_hand(way)
    shares, _ = by_definition(query, key, handmade.ALLOWED, p_key)
    torch.testing.assert_close(weights, shares.float(), **EXACT)


@pytest.mark.parametrize("way", ["matmul", "one call"])
def test_gated_attention_by_hand(way):
    gate = torch.tensor([0.3, -1.7, 1.0])
    (weights,), (query, key, _), p_key = seen_by_hand(way, gate)
    shares, _ = by_definition(query, key, handmade.ALLOWED, p_key, gate[:, None].expand(-1, handmade.P))
    torch.testing.assert_close(weights, shares.float(), **EXACT)


@torch.no_grad()
def test_a_family_that_attends_by_hand():
    """Its own weights of a text that begins with the tokens which the prefix was made of."""
    config = tr.GPTJConfig(n_embd=44, n_layer=2, n_head=4, rotary_dim=6, n_positions=64, **tiny.TOKENS)
    torch.manual_seed(0)
    model = prefix_peft.wrap(tr.GPTJForCausalLM(config).eval(), P)
    front, ids = tiny.tokens(1, P, seed=7), tiny.tokens(1, 6)
    prefix_peft.initialize_kv_prefix_from_tokens(model, front)
    with model.disable_adapter():
        theirs = model(torch.cat([front, ids], 1), output_attentions=True).attentions
    with observe(model) as seen:
        model(ids)
    for site, weights in zip(seen.sites, theirs, strict=True):
        torch.testing.assert_close(seen.weights(site.name), weights[..., P:, :P], **EXACT)


@torch.no_grad()
def test_of_several_turns_the_first_is_noted():
    model = prefix_peft.wrap(diffllama(), P)
    front, ids = tiny.tokens(1, P, seed=7), tiny.tokens(2, 6)
    prefix_peft.initialize_kv_prefix_from_tokens(model, front)
    theirs = diffllama("eager")(torch.cat([front.expand(2, -1), ids], 1), output_attentions=True).attentions
    with observe(model) as seen:
        model(ids)
        model(ids)
    for site, weights in zip(seen.sites, theirs, strict=True):
        torch.testing.assert_close(
            seen.weights(site.name), weights[..., P:, :P].repeat(1, 1, 2, 1), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_half_precision_is_observed_in_float32():
    model = wrapped().to(torch.bfloat16)
    with observe(model) as seen:
        model(tiny.tokens(1, 6))
    for site in seen.sites:
        weights = seen.weights(site.name)
        assert weights.dtype == torch.float32 and not torch.equal(weights, weights.bfloat16().float())


@torch.no_grad()
def test_what_is_observed_is_not_changed_and_outside_nothing_is_computed(monkeypatch):
    model, ids, count = wrapped(), tiny.tokens(2, 6), []
    weights_of = hook.prefix_weights
    monkeypatch.setattr(hook, "prefix_weights", lambda *call: count.append(call) or weights_of(*call))
    plain = model(ids).logits
    assert not count
    with observe(model) as seen:
        assert torch.equal(model(ids).logits, plain)
        with model.disable_adapter():
            model(ids)
    model(ids)
    assert len(count) == len(seen.sites) == 3
    with pytest.raises(KeyError, match="no prefix took part at 'lm_head'; there was one at"):
        seen.weights("lm_head")
    with (
        pytest.raises(ValueError, match="LlamaForCausalLM carries no prefix; wrap it first"),
        observe(tiny.build("llama")),
    ):
        pass


@torch.no_grad()
def test_all_queries_of_a_decoding_are_noted():
    model, ids = wrapped(), tiny.tokens(2, 6)
    with observe(model) as seen:
        written = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    with observe(model) as at_once:
        model(written[:, :-1])
    for site in seen.sites:
        torch.testing.assert_close(seen.weights(site.name), at_once.weights(site.name), **EXACT)


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


@pytest.mark.parametrize("family", ["llama", "gpt2", "bart", "t5"])
def test_the_words_nearest_to_a_prefix_made_of_words_are_these_words(family):
    model, ids = prefix_peft.wrap(tiny.build(family), P), tiny.tokens(1, P, seed=7)
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


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """A base model whose vocabulary is hostile to a page, and two prefixes for it."""
    place = tmp_path_factory.mktemp("inside")
    base, read = tiny.build("gpt2"), tiny.tokenizer()
    read.add_tokens(["<script>alert(1)</script>&\"'"])  # takes the place of no token that a text here has
    base.resize_token_embeddings(len(read), mean_resizing=False)
    base.save_pretrained(place / "base")
    read.save_pretrained(place / "base")
    for name, seed in (("one", 1), ("two", 2)):
        model = tr.GPT2LMHeadModel.from_pretrained(place / "base")
        tiny.fill(prefix_peft.wrap(model, P), seed).save_pretrained(place / name, save_embedding_layers=False)
    return place


def ran(capsys, *argv):
    status = main(["inspect", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


HOSTILE = "<script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """Which tags there are, what they load, and the texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_a_page_is_whole_escaped_and_loads_nothing(on_disk, tmp_path, capsys):
    file = tmp_path / "page.html"
    text = f"t7 {HOSTILE} t8"
    given = ("--adapter", on_disk / "one", "--model", on_disk / "base", "--text", text, "--separator", " t4")
    status, out, err = ran(capsys, *given, "--words", 2, "--compare", on_disk / "two", "--html", file)
    assert status == 0, err
    read = Page(file.read_text(encoding="utf-8"))
    assert not read.open and "script" not in read.tags and HOSTILE in read.texts
    assert not {name for name, _ in read.attributes} & {"src", "href", "onclick"} and "url(" not in file.read_text()
    assert {"Attention to the prefix", "Nearest words", "Compared by site", "Norm of the keys"} <= set(read.texts)
    masses = attention_mass(*loaded(on_disk), text, separator=" t4")
    for mass in masses.sites:
        assert re.search(rf"decoder +\| {mass.site.name.split('.')[2]} +\| {100 * mass.heads.mean():.1f} ", out)
    titles = [value for name, value in read.attributes if name == "title"]
    assert f"layer 1, head 2: {100 * float(masses.sites[1].heads[2]):.3g}" in titles


def loaded(place):
    from prefix_peft.training.models import load_prefix

    return load_prefix(str(place / "base"), str(place / "one"))


def test_a_picture(on_disk, tmp_path, capsys, monkeypatch):
    text = ("--model", on_disk / "base", "--text", "t7 $t8$ t9", "--separator", " t4")
    for more in ((), text):
        file = tmp_path / "picture.PNG"
        status, out, err = ran(capsys, "--adapter", on_disk / "one", *more, "--png", file)
        assert status == 0 and f"Written: {file}" in out, err
        assert file.read_bytes().startswith(b"\x89PNG")
        file.unlink()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    status, _, err = ran(capsys, "--adapter", on_disk / "one", "--png", tmp_path / "picture.png")
    assert status == 2 and "pip install prefix-peft[plot]" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say which model (--model), or which trained prefix (--adapter), or both"),
        (("--model", "base", "--text", "t7"), "--text looks inside a trained prefix; say which one with --adapter"),
        (("--adapter", "one", "--text", "t7"), "--text needs the base model as well; say --model"),
        (("--adapter", "one", "--words", "3"), "--words needs the base model as well; say --model"),
        (("--adapter", "one", "--model", "base", "--text", " "), "--text must have words, got ' '"),
        (("--adapter", "one", "--model", "base", "--target", "t7"), "--target goes with a text; say --text"),
        (("--adapter", "one", "--model", "base", "--words", "-1"), "--words must be at least 0, got -1"),
        (("--adapter", "one", "--png", "a.jpg"), "--png writes a file that ends in .png, got 'a.jpg'"),
        (("--adapter", "one", "--html", "a.png"), "--html writes a file that ends in .html, got 'a.png'"),
        (("--adapter", "one", "--model", "base", "--text", "t7 " * 200), "the text is longer than the 128 tokens"),
        (("--adapter", "one", "--model", "other", "--text", "t7"), "was trained on another base model"),
        (("--adapter", "./no/where/at/all"), "./no/where/at/all"),
        (("--plan",), "a plan is for a model; say --model"),
        (("--model", "base", "--plan", "--html", "a.html"), "--html does not belong to a plan; leave it out"),
    ],
)
def test_what_cannot_be_looked_into(on_disk, options, message, capsys, monkeypatch):
    monkeypatch.chdir(on_disk)
    if "other" in options and not (on_disk / "other").exists():
        other, read = tiny.build("gpt2", seed=5), tr.AutoTokenizer.from_pretrained(on_disk / "base")
        other.resize_token_embeddings(len(read), mean_resizing=False)
        other.save_pretrained(on_disk / "other")
        read.save_pretrained(on_disk / "other")
    status, _, err = ran(capsys, *options)
    assert status == 2 and message in err


def test_shades_and_colours():
    heat = HeatMap("Title", "layer", ["0", "1"], "head", ["0", "1"], [[0.0, 100.0], [59.9, float("nan")]], "%", 100.0)
    lines = shaded(heat).splitlines()
    assert lines[3:5] == ["0        ██  50.0", "1     ▒▒     59.9"]
    turned = shaded(HeatMap(**vars(heat) | {"words": True, "columns": ["a", "b"]})).splitlines()
    assert turned[3:5] == ["a       ▒▒  29.9", "b    ██     100.0"]
    assert page("T", [], [heat]).count("<td></td>") == 1
    assert [colour(i / 7) for i in range(8)] == ANCHORS and colour(-1) == ANCHORS[0] and colour(2) == ANCHORS[-1]
    dark = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in map(colour, torch.linspace(0, 1, 30).tolist())]
    assert dark == sorted(dark, reverse=True)


def test_names_are_shortened_to_what_tells_them_apart():
    assert short_names(["a.h.0.attn", "a.h.1.attn"]) == ["0", "1"]
    assert short_names(["d.0.self", "d.0.cross"]) == ["self", "cross"]
    assert short_names(["a.attn"]) == ["a.attn"]
    assert short_names(["a.0.attn", "b.x.1.attn"]) == ["0", "1"]
    assert short_names(["a.0.attn", "b.x.0.attn"]) == ["a.0.attn", "b.x.0.attn"]
