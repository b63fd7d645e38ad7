"""Continuous batching against each prompt's own ``generate``."""

import pytest
import test_rows
import tiny
import torch
import transformers as tr
from transformers import GenerationConfig

import prefix_peft
from prefix_peft import PrefixConfig

NAMES = test_rows.NAMES
PROMPTS = [tiny.tokens(length, seed=length).tolist() for length in (5, 19, 3, 7)]  # one is longer than a step
NEW = 6


def options(**changes):
    """A small cache of small pages, and steps of 16 tokens, so that prompts are split and mixed with answers."""
    sizes = {"num_blocks": 64, "max_batch_tokens": 16, "page_size": 4, "return_logprobs": True} | changes
    return {
        "generation_config": GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=-1),
        "continuous_batching_config": tr.ContinuousBatchingConfig(**sizes),
    }


def batched(model, prompts, changes=(), **kwargs):
    return answers_of(model.generate_batch(prompts, **options(**dict(changes)), **kwargs).values())


def answers_of(results):
    assert [result.error for result in results] == [None] * len(results)
    return [(result.generated_tokens, torch.tensor(result.logprobs)) for result in results]


def own(model, name, prompt):
    """The tokens that ``generate`` chooses, and their log probabilities."""

    def run():
        given = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
        return model.generate(torch.tensor([prompt]), **given)

    out = run() if name is None else test_rows.alone(model, name, run)
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.scores).log_softmax(-1).amax(-1)


def owns(model, names, prompts):
    return [own(model, name, prompt) for name, prompt in zip(names, prompts, strict=True)]


def assert_same(answers, expected):
    assert [tokens for tokens, _ in answers] == [tokens for tokens, _ in expected]
    torch.testing.assert_close([odds for _, odds in answers], [odds for _, odds in expected], atol=1e-4, rtol=1e-4)


def assert_different(answers):
    for i, (_, odds) in enumerate(answers):
        assert all((odds - other).abs().max() > 1e-2 for _, other in answers[:i]), "the prefixes must matter"


@pytest.mark.parametrize(
    ("family", "implementation"),
    [*((family, "sdpa") for family in tiny.CAUSAL), ("gpt2", "eager"), ("gemma3", "eager")],
)
def test_one_prefix_for_all_or_one_for_each(family, implementation):
    model = test_rows.several(family)
    model.set_attn_implementation(implementation)
    if family == "gemma3":  # it magnifies its embeddings so much that the tiny one is sure of each token
        model.get_input_embeddings().weight.data.mul_(0.1)
    assert_same(batched(model, PROMPTS, adapter_names=NAMES), owns(model, NAMES, PROMPTS))
    assert_different(owns(model, NAMES, [PROMPTS[0]] * 4))
    for name in ("long", "gated"):
        expected = owns(model, [name] * 4, PROMPTS)
        assert_same(batched(model, PROMPTS), expected)
    assert model.config._attn_implementation == implementation


def test_sliding_windows_shorter_than_the_text():
    torch.manual_seed(0)
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    base = tr.Gemma3ForCausalLM(tr.Gemma3TextConfig(**tiny.LLAMA_LIKE, sliding_window=4, layer_types=layers)).eval()
    base.generation_config.eos_token_id = None
    model, names = tiny.fill(prefix_peft.wrap(base, 3)).eval(), ["default", "__base__"]
    model.get_input_embeddings().weight.data.mul_(0.1)
    assert_same(batched(model, PROMPTS[:2], adapter_names=names), owns(model, names, PROMPTS[:2]))
    assert_different(owns(model, names, [PROMPTS[1]] * 2))


def test_equal_prompts_behind_different_prefixes_share_no_keys():
    model, prompts = test_rows.several("llama"), [PROMPTS[1]] * 4
    one_by_one = {"max_requests_per_batch": 1}
    assert_same(batched(model, prompts, one_by_one, adapter_names=NAMES), owns(model, NAMES, prompts))


def test_names_survive_a_full_cache_and_forks():
    model = test_rows.several("llama")
    expected = owns(model, NAMES, PROMPTS)
    assert_same(batched(model, PROMPTS, {"num_blocks": 11}, adapter_names=NAMES), expected)
    given = options()
    given["generation_config"].num_return_sequences = 2
    results = model.generate_batch(PROMPTS, adapter_names=NAMES, **given)
    assert_same(answers_of(results.values()), [answer for answer in expected for _ in range(2)])


def test_padded_steps():
    model = test_rows.several("gpt2")
    compiled = {"varlen_compile_config": tr.CompileConfig()}  # what is compiled is padded
    with torch.compiler.set_stance("force_eager"):
        assert_same(batched(model, PROMPTS, compiled, adapter_names=NAMES), owns(model, NAMES, PROMPTS))


def test_the_manager_takes_requests_for_adapters_and_for_the_active_ones():
    model = test_rows.several("gpt2")
    names = ["long", "__base__", None, "gated"]
    expected = owns(model, names[:2], PROMPTS[:2])
    model.base_model.set_adapter(["default", "long"])
    expected += owns(model, [None, "gated"], PROMPTS[2:])
    model.base_model.set_adapter(["default", "long"])
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
            assert result is not None
            results[result.request_id] = result
    finally:
        manager.stop(block=True)
    assert_same(answers_of([results[i] for i in ids]), expected)


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
    assert_same(batched(plain, PROMPTS), owns(plain, [None] * 4, PROMPTS))


def test_adapters_of_transformers_own_api():
    base = tiny.build("llama")
    base.add_adapter(PrefixConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    tiny.fill(base)
    assert_same(batched(base, PROMPTS), owns(base, [None] * 4, PROMPTS))
