"""Continuous batching against each prompt's own ``generate``."""

import pytest
import test_rows
import tiny
import torch
import transformers as tr
from transformers import CompileConfig, ContinuousBatchingConfig, GenerationConfig

import prefix_peft
from prefix_peft import PrefixConfig

NAMES = test_rows.NAMES
PROMPTS = [tiny.tokens(length, seed=length).tolist() for length in (5, 19, 3, 7)]  # one is longer than a step
NEW = 6


def options(**changes):
    """A small cache of small pages, and steps of 16 tokens, so that prompts are split and mixed with answers."""
    sizes = {"num_blocks": 64, "max_batch_tokens": 16, "page_size": 4, "default_compile_level": 0} | changes
    return {
        "generation_config": GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=-1),
        "continuous_batching_config": ContinuousBatchingConfig(**sizes),
    }


def batched(model, prompts, changes=(), **kwargs):
    results = model.generate_batch(prompts, **options(**dict(changes)), **kwargs)
    assert [result.error for result in results.values()] == [None] * len(results)
    return [result.generated_tokens for result in results.values()]


def own(model, name, prompt):
    ids = torch.tensor([prompt])
    out = test_rows.alone(model, name, lambda: model.generate(ids, max_new_tokens=NEW, do_sample=False))
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("family", "implementation"),
    [*((family, "sdpa") for family in tiny.CAUSAL), ("gpt2", "eager"), ("gemma3", "eager")],
)
def test_one_prefix_for_all_or_one_for_each(family, implementation):
    model = test_rows.several(family)
    model.set_attn_implementation(implementation)
    expected = [own(model, name, prompt) for name, prompt in zip(NAMES, PROMPTS, strict=True)]
    assert batched(model, PROMPTS, adapter_names=NAMES) == expected
    for name in ("long", "gated"):
        expected = [own(model, name, prompt) for prompt in PROMPTS]
        model.set_adapter(name)
        assert batched(model, PROMPTS) == expected
    assert model.config._attn_implementation == implementation


def test_sliding_windows_shorter_than_the_text():
    torch.manual_seed(0)
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    base = tr.Gemma3ForCausalLM(tr.Gemma3TextConfig(**tiny.LLAMA_LIKE, sliding_window=4, layer_types=layers)).eval()
    base.generation_config.eos_token_id = None
    model = tiny.fill(prefix_peft.wrap(base, 3)).eval()
    expected = [own(model, name, prompt) for name, prompt in zip(["default", "__base__"], PROMPTS[:2], strict=True)]
    assert batched(model, PROMPTS[:2], adapter_names=["default", "__base__"]) == expected


def test_equal_prompts_behind_different_prefixes_share_no_keys():
    model, prompt = test_rows.several("llama"), PROMPTS[1]
    expected = [own(model, name, prompt) for name in NAMES]
    assert len({tuple(answer) for answer in expected}) == len(NAMES)
    model.set_adapter("default")
    one_by_one = {"max_requests_per_batch": 1}
    assert batched(model, [prompt] * 4, one_by_one, adapter_names=NAMES) == expected


def test_names_survive_a_full_cache_and_forks():
    model = test_rows.several("llama")
    expected = [own(model, name, prompt) for name, prompt in zip(NAMES, PROMPTS, strict=True)]
    assert batched(model, PROMPTS, {"num_blocks": 11}, adapter_names=NAMES) == expected
    given = options()
    given["generation_config"].num_return_sequences = 2
    results = model.generate_batch(PROMPTS, adapter_names=NAMES, **given)
    assert [result.generated_tokens for result in results.values()] == [answer for answer in expected for _ in "ab"]


def test_padded_steps():
    model = test_rows.several("gpt2")
    expected = [own(model, name, prompt) for name, prompt in zip(NAMES, PROMPTS, strict=True)]
    compiled = {"varlen_compile_config": CompileConfig()}  # what is compiled is padded
    with torch.compiler.set_stance("force_eager"):
        assert batched(model, PROMPTS, compiled, adapter_names=NAMES) == expected


def test_the_manager_takes_requests_for_adapters_and_for_the_active_one():
    model = test_rows.several("gpt2")
    names = ["long", "__base__", None, "gated"]
    expected = [own(model, name or "default", prompt) for name, prompt in zip(names, PROMPTS, strict=True)]
    model.set_adapter("default")
    manager = model.init_continuous_batching(**options())
    manager.start()
    try:
        ids = [
            manager.add_request(prompt, adapter_name=name) for name, prompt in zip(names[:3], PROMPTS[:3], strict=True)
        ]
        ids += manager.add_requests(PROMPTS[3:], adapter_names=names[3:])
        with pytest.raises(ValueError, match=r"adapter_names asks for \['nobody'\].* choose from \['default', 'long'"):
            manager.add_request(PROMPTS[0], adapter_name="nobody")
        results = {}
        while len(results) < len(ids):
            result = manager.get_result(timeout=20)
            assert result is not None and result.error is None, result
            results[result.request_id] = result.generated_tokens
    finally:
        manager.stop(block=True)
    assert [results[i] for i in ids] == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["nobody"] * 4,
            r"adapter_names asks for \['nobody'\], .* choose from \['default', 'long', 'gated', '__base__'\]",
        ),
        (["default"], "adapter_names has 1 names for 4 inputs"),
    ],
)
def test_impossible_names(names, message):
    with pytest.raises(ValueError, match=message):
        test_rows.several("llama").generate_batch(PROMPTS, adapter_names=names, **options())


def test_what_cannot_be_served_is_refused_at_once():
    model = test_rows.several("llama")
    with pytest.raises(NotImplementedError, match="use_cuda_graph=True repeats"):
        model.generate_batch(PROMPTS, **options(use_cuda_graph=True))
    with pytest.raises(NotImplementedError, match="use_async_batching=True repeats"):
        model.generate_batch(PROMPTS, **options(use_async_batching=True))
    model.set_attn_implementation("flex_attention")
    with pytest.raises(NotImplementedError, match=r"'flex_attention', .*set_attn_implementation\('sdpa'\)"):
        model.generate_batch(PROMPTS, **options())


def test_models_without_a_prefix_are_left_as_they_are():
    test_rows.several("llama")
    plain = tiny.build("llama")
    manager = plain.init_continuous_batching(**options())
    assert manager.continuous_batching_config.allow_block_sharing
    assert "adapter_name" not in manager.logit_processor.supported_keys
    expected = [plain.generate(torch.tensor([p]), max_new_tokens=NEW, do_sample=False)[0, len(p) :] for p in PROMPTS]
    assert batched(plain, PROMPTS) == [answer.tolist() for answer in expected]


def test_adapters_of_transformers_own_api():
    base = tiny.build("llama")
    base.add_adapter(PrefixConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    tiny.fill(base)
    expected = [base.generate(torch.tensor([p]), max_new_tokens=NEW, do_sample=False)[0, len(p) :] for p in PROMPTS]
    assert batched(base, PROMPTS) == [answer.tolist() for answer in expected]
