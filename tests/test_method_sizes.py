"""The experiments' methods: how many parameters they train, what their settings do, and where they start."""

from dataclasses import replace

import pytest
import tiny
import torch
from prepared import FAMILIES, METHODS, SETTINGS, prepared, served

from experiments.methods import Settings, size_at, trained_parameters

SIZED = [name for name, method in METHODS.items() if method.knob]


def counts(L, d, P, m, r, h, z):
    """Of a GPT-2 with L layers of width d."""
    block = 12 * d * d + 13 * d
    return {
        "none": 0,
        "fine_tuning": (tiny.VOCAB + 128 + 2) * d + L * block,
        "ft_top2": 2 * block,
        "adapter": L * (2 * d + 2 * d * m + m + d),
        "lora": L * r * (d + 3 * d),
        "prefix": 2 * L * P * d,
        "prefix_scaled": 2 * L * P * d,
        "prefix_mlp": P * h + h * h + h + 2 * L * d * (h + 1),
        "prefix_shared": P * z + 2 * L * d * z,
        "decoupled": 2 * L * r * d,
        "infix": 2 * L * P * d,
        "embedding": P * d,
        "peft_prompt": P * d,
        "peft_prefix": 2 * L * P * d,
        "peft_prefix_mlp": P * d + h * (d + 1) + 2 * L * d * (h + 1),
        "peft_adaption_prompt": L * (P * d + 1),
    }


def test_as_many_parameters_as_the_formulas_say():
    formulas = counts(L=3, d=44, P=3, m=5, r=2, h=7, z=5)
    assert {name: trained_parameters(prepared(name)) for name in METHODS} == formulas


@pytest.mark.parametrize(("name", "family"), served(SIZED))
def test_a_budget_is_met_as_nearly_as_can_be(name, family):
    method, budget = METHODS[name], 33333
    found = size_at(method, tiny.build(family), budget, SETTINGS)
    size = getattr(found, method.knob)
    errors = {n: abs(trained_parameters(prepared(name, family, **{method.knob: n})) - budget) for n in (size, size + 1)}
    errors[size - 1] = abs(trained_parameters(prepared(name, family, **{method.knob: size - 1})) - budget)
    assert errors[size] == min(errors.values())
    assert errors[size] < 0.05 * budget
    assert found == replace(SETTINGS, **{method.knob: size})


def test_a_budget_below_the_smallest_size_gets_that():
    assert size_at(METHODS["adapter"], tiny.build("gpt2"), 1).bottleneck == 1
    assert (
        size_at(METHODS["prefix"], tiny.build("gpt2"), 1, replace(SETTINGS, num_frozen_tokens=2)).num_virtual_tokens
        == 3
    )


def test_budgets_that_make_no_sense():
    with pytest.raises(ValueError, match="at least 1 trained parameter, got 0"):
        size_at(METHODS["lora"], tiny.build("gpt2"), 0)
    with pytest.raises(ValueError, match=r"fine_tuning has no size to choose; leave it out of a comparison at 1,000"):
        size_at(METHODS["fine_tuning"], tiny.build("gpt2"), 1000)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        Settings(rank=0)
    with pytest.raises(TypeError, match=r"bottleneck must be a whole number, got 1\.5"):
        Settings(bottleneck=1.5)


@pytest.mark.parametrize("name", SIZED)
def test_the_start_depends_on_the_seed_alone(name):
    starts = []
    for state, seed in ((11, 4), (12, 4), (12, 6)):
        torch.manual_seed(state)
        starts.append(torch.cat([p.flatten() for p in prepared(name, seed=seed).parameters() if p.requires_grad]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_preparing_leaves_the_random_numbers_to_come_alone():
    base = tiny.build("gpt2")
    state = torch.get_rng_state()
    METHODS["adapter"].prepare(base, SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_start_as_words(family, tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    table = tiny.build(family).get_input_embeddings().weight
    text = prepared("peft_prompt", family, init_text="t7 t8", tokenizer_name_or_path=str(tmp_path))
    assert torch.equal(trained(text), table[[7, 8, 7]])
    for row in trained(prepared("embedding", family)):
        assert (table == row).all(dim=1).any()


def trained(model):
    (parameter,) = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return parameter


def test_settings_reach_our_prefixes(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    given = {
        "sites": ("decoder", "cross"), "gate": "token", "num_frozen_tokens": 1, "prefix_dropout": 0.25,
        "init_text": "t7 t8",
    }  # fmt: skip
    config = prepared("prefix", "bart", tokenizer_name_or_path=str(tmp_path), **given).peft_config["default"]
    assert {field: getattr(config, field) for field in given} == given | {"sites": ["decoder", "cross"]}
    assert config.num_virtual_tokens == 3 and config.tokenizer_name_or_path == str(tmp_path)
