"""How much attention virtual tokens get: against a loop in float64, and against the eager weights of real tokens."""

import handmade
import pytest
import tiny
import torch
import transformers as tr
from test_turns import diffllama
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

import prefix_peft
from prefix_peft import PrefixConfig, hook
from prefix_peft.anatomy.sites import Site
from prefix_peft.by_hand.modes import Serve
from prefix_peft.inside import observe
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
    hand, seen = handmade.Hand(**(BY_HAND[way] if isinstance(way, str) else way)), []
    heads = 1 if str(way).startswith("shared") else handmade.H
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


def test_queries_in_blocks_are_no_more_heads():
    def forward(q, k, v):
        q, k, v = (t[:, :, :4].unflatten(2, (2, 2)).transpose(1, 2) for t in (q, k, v))
        weights = (torch.einsum("bnhqd,bnhkd->bnhqk", q, k) * handmade.SCALE).softmax(-1)
        return torch.einsum("bnhqk,bnhkd->bnhqd", weights, v).transpose(1, 2).flatten(2, 3)

    with pytest.raises(NotImplementedError, match="in blocks or streams of queries"):
        seen_by_hand({"forward": forward})


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
