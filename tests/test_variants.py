"""The variants of a prefix among the experiments' methods: their definitions, in loops, and where they start."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from prepared import FAMILIES, METHODS, SETTINGS, prepared
from transformers import BloomConfig, BloomForCausalLM

from experiments.catalogue import EXPERIMENTS
from experiments.experiment import Choice
from experiments.harness import prepared as prepared_cell
from experiments.methods import Settings, trained_parameters
from experiments.methods.decoupled import Memory
from prefix_peft.anatomy.sites import Site
from prefix_peft.layer import prefix_layers

AT_A_FLAT_PREFIX = [
    ("prefix_shared", {}),
    ("prefix_shared", {"num_frozen_tokens": 1}),
    ("prefix_shared", {"key_scale": 3.0, "relative_scale": True}),
    ("prefix", {"key_scale": 0.3}),
    ("prefix", {"relative_scale": True, "num_frozen_tokens": 1}),
]


def encoders(model):
    return [layer.encoder("default") for layer in prefix_layers(model)]


@torch.no_grad()
def prefixes(model):
    """Of each site: keys and values."""
    return [[part.clone() for part in encoder()] for encoder in encoders(model)]


def step(model, rate, family="gpt2"):
    """One step of AdamW, whose epsilon would shorten those of small gradients."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, eps=0.0, weight_decay=0.0)
    labels = tiny.tokens(2, 9 if family == "gpt2" else 7, seed=2)
    model(**tiny.inputs(family), labels=labels).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), AT_A_FLAT_PREFIX)
@torch.no_grad()
def test_what_starts_at_a_flat_prefix_has_its_logits(name, changes, family):
    ours = prepared(name, family, **changes)
    flat = prepared("prefix", family, num_frozen_tokens=changes.get("num_frozen_tokens", 0))
    assert torch.equal(ours(**tiny.inputs(family)).logits, flat(**tiny.inputs(family)).logits)


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("relative", [False, True])
def test_each_part_moves_at_its_own_rate(relative, frozen):
    """The first step of Adam is the rate times the sign of the gradient; three are rounded, of numbers below 8."""
    rate, scales = 1e-2, (0.25, 3.0)
    settings = {"key_scale": scales[0], "value_scale": scales[1], "relative_scale": relative}
    model = prepared("prefix", num_frozen_tokens=frozen, **settings)
    before = prefixes(model)
    step(model, rate)
    for start, now in zip(before, prefixes(model), strict=True):
        for scale, p0, p in zip(scales, start, now, strict=True):
            numbers = p0.flatten().tolist()
            size = math.sqrt(sum(x * x for x in numbers) / len(numbers)) if relative else 1.0
            moved = (p - p0)[:, frozen:].abs()
            torch.testing.assert_close(moved, torch.full_like(moved, rate * scale * size), rtol=0, atol=2e-6)
            assert torch.equal(p[:, :frozen], p0[:, :frozen])


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_shared_prefix_is_made_of_one_latent(family, frozen):
    model = prepared("prefix_shared", family, num_frozen_tokens=frozen)
    before, generator = prefixes(model), torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    heads = [encoder.shared_head for encoder in encoders(model)]
    z = heads[0].latent
    assert z.shape == (3 - frozen, 5)
    assert all(head.latent is z for head in heads)
    for head, start, now in zip(heads, before, prefixes(model), strict=True):
        for i in range(3):
            made = z[i - frozen] @ head.weight if i >= frozen else torch.zeros(head.weight.shape[1])
            (keys, values), width = start, start[0].shape[-1] + start[1].shape[-1]
            for g in range(len(keys)):
                of_head = made[g * width : (g + 1) * width]
                torch.testing.assert_close(now[0][g, i], keys[g, i] + of_head[: keys.shape[-1]])
                torch.testing.assert_close(now[1][g, i], values[g, i] + of_head[keys.shape[-1] :])


def test_a_shared_prefix_trains_its_gate_and_not_its_start():
    model = prepared("prefix_shared", gate=True)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"latent", "weight", "p_gate"}


def phi(q):
    """elu(q) + 1, by definition."""
    return torch.tensor([x + 1 if x > 0 else math.exp(x) for x in q.tolist()])


@pytest.mark.parametrize("rank", [None, 3])
@torch.no_grad()
def test_a_memory_is_a_matrix_per_head_of_keys(rank):
    """Six heads of queries ask two memories, three of them each."""
    memory, query = Memory(Site("attn", "decoder", 2, 5, 7), rank), torch.randn(2, 6, 4, 5)
    assert not memory(query).any()
    memory.right.normal_()
    matrix = memory.right if rank is None else torch.stack([memory.left[g] @ memory.right[g] for g in range(2)])
    given = memory(query)
    assert given.shape == (2, 4, 6, 7)
    for b in range(2):
        for h in range(6):
            for t in range(4):
                torch.testing.assert_close(given[b, t, h], phi(query[b, h, t]) @ matrix[h // 3])


@pytest.mark.parametrize("rank", [None, 2])
@torch.no_grad()
def test_a_decoupled_prefix_adds_to_what_attention_gives(rank):
    """GPT-2, written out."""
    model, base, ids = prepared("decoupled", memory_rank=rank), tiny.build("gpt2"), tiny.tokens(2, 9)
    hidden = base.transformer.wte(ids) + base.transformer.wpe(torch.arange(9))
    for index, block in enumerate(base.transformer.h):
        memory = model.transformer.h[index].attn.memory
        memory.right.normal_()
        q, k, v = (
            x.unflatten(-1, (4, 11)).transpose(1, 2) for x in block.attn.c_attn(block.ln_1(hidden)).split(44, -1)
        )
        scores = (q @ k.mT / math.sqrt(11)).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -math.inf)
        matrix = memory.right if rank is None else memory.left @ memory.right
        attended = scores.softmax(-1) @ v + (F.elu(q) + 1) @ matrix
        hidden = hidden + block.attn.c_proj(attended.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.ln_2(hidden))
    logits = base.lm_head(base.transformer.ln_f(hidden))
    torch.testing.assert_close(model(ids).logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_memory_learns_from_the_base_on(family):
    model, inputs = prepared("decoupled", family, memory_rank=None), tiny.inputs(family)
    assert torch.equal(model(**inputs).logits, tiny.build(family)(**inputs).logits)
    width, sites = 11, 3 if family == "gpt2" else 2 + 2 * 3
    assert trained_parameters(model) == sites * 4 * width * width
    step(model.train(), 1e-3, family)
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
    assert torch.equal(model.train()(**inputs).logits, model.eval()(**inputs).logits), "the base's dropout is on"


def test_no_memory_beside_attention_by_hand():
    config = BloomConfig(hidden_size=44, n_layer=2, n_head=4, **tiny.TOKENS)
    with pytest.raises(ValueError, match=r"h\.0\.self_attention of BloomForCausalLM computes its attention by itself"):
        METHODS["decoupled"].prepare(BloomForCausalLM(config), SETTINGS)


@pytest.mark.parametrize("family", FAMILIES)
def test_halves_of_the_layers(family):
    """Of three layers the upper half has two; an encoder has two, and a half is one."""
    found = {}
    for half in ("lower", "upper"):
        names = {layer.site.name for layer in prefix_layers(prepared("prefix", family, layers=half))}
        memories = prepared("decoupled", family, layers=half).named_modules()
        assert {name.removesuffix(".memory") for name, module in memories if isinstance(module, Memory)} == names
        found[half] = names
    every = {layer.site.name for layer in prefix_layers(prepared("prefix", family))}
    assert found["lower"] | found["upper"] == every
    layers = {half: {tuple(name.split(".")[-4:-1]) for name in names} for half, names in found.items()}
    indices = {half: sorted(int(x) for layer in names for x in layer if x.isdigit()) for half, names in layers.items()}
    assert indices == ({"lower": [0], "upper": [1, 2]} if family == "gpt2" else {"lower": [0, 0], "upper": [1, 1, 2]})


def test_halves_beside_roles():
    names = [layer.site.name for layer in prefix_layers(prepared("prefix", "bart", layers="lower", sites=("cross",)))]
    assert names == ["model.decoder.layers.0.encoder_attn"]


def test_a_single_layer_has_no_lower_half():
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no lower half of its layers; leave layers out"):
        METHODS["prefix"].prepare(one_layer(), Settings(layers="lower"))
    assert len(prefix_layers(METHODS["prefix"].prepare(one_layer(), Settings(layers="upper")))) == 1


def one_layer():
    model = tiny.build("gpt2")
    model.transformer.h = model.transformer.h[:1]
    return model


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layers": "middle"}, r"unknown layers 'middle'; choose from \['lower', 'upper'\], or leave it out"),
        ({"key_scale": 0.0}, "key_scale must be a number above 0, got 0.0; 1 leaves"),
        ({"value_scale": math.nan}, "value_scale must be a number above 0, got nan"),
        ({"memory_rank": 0}, "memory_rank must be at least 1, got 0"),
        ({"latent_size": 0}, "latent_size must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(given, said):
    with pytest.raises(ValueError, match=said):
        Settings(**given)


def test_every_variant_can_be_prepared_and_told_from_the_others(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    experiment = EXPERIMENTS["variants"]
    cells = experiment.cells(Choice(str(tmp_path), ("e2e",), (0,)))
    assert len({experiment.line(cell) for cell in cells}) == len(cells) == 20
    assert {"prefix", "prefix, gate", "decoupled, memory rank 10"} <= set(map(experiment.line, cells))
    assert all(trained_parameters(prepared_cell(cell, tiny.build("gpt2"))) for cell in cells)
