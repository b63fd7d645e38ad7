"""Modules that call one attention interface several times in a forward: to equal keys, with values of their own."""

import threading
from contextlib import nullcontext

import pytest
import reference
import tiny
import torch
import transformers as tr
from transformers.modeling_utils import AttentionInterface

import prefix_peft
from prefix_peft.anatomy.watching import anatomy_of
from prefix_peft.hook import install

P = 5
EXACT = {"atol": 5e-5, "rtol": 0.0}  # as in test_initialize


def diffllama(attn_implementation="sdpa"):
    torch.manual_seed(0)
    model = tr.DiffLlamaForCausalLM(tr.DiffLlamaConfig(**tiny.LLAMA_LIKE | {"eos_token_id": None})).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.4)
    model.set_attn_implementation(attn_implementation)
    return model


def of_tokens(base, c):
    model = prefix_peft.wrap(base, P)
    assert prefix_peft.initialize_kv_prefix_from_tokens(model, c) == 0
    return model.eval()


def shapes(model):
    return {(site.key_dim, site.value_dim, site.turns) for site in anatomy_of(model).sites.values()}


# What the second call is given, and whether that is a second turn.
SECOND = {
    "other values": (lambda key, value: (key, value.flip(1)), True),
    "other keys": (lambda key, value: (key.flip(1), value), False),
    "other keys and values": (lambda key, value: (key.flip(1), value.flip(1)), False),
    "the same": (lambda key, value: (key, value), False),
}


def attend_twice(monkeypatch, second, between=nullcontext, *, anew=False):
    """Let every attention be the mean of two; ``anew`` asks for an interface for each."""
    install()
    get_interface = AttentionInterface.get_interface

    def twice(self, *names):
        attend = get_interface(self, *names)

        def both(module, query, key, value, *rest, **options):
            first, weights = attend(module, query, key, value, *rest, **options)
            with between():
                again = get_interface(self, *names) if anew else attend
            more, _ = again(module, query, *second(key, value), *rest, **options)
            return (first + more) / 2, weights

        return both

    twice.prefix_peft = True
    monkeypatch.setattr(AttentionInterface, "get_interface", twice)


def test_each_call_has_values_of_its_own():
    assert shapes(diffllama()) == {(14, 28, 2)}


@pytest.mark.parametrize("second", SECOND)
def test_only_other_values_to_the_same_keys_are_a_turn(monkeypatch, second):
    change, is_a_turn = SECOND[second]
    attend_twice(monkeypatch, change)
    assert shapes(tiny.build("llama")) == {(14, 28, 2) if is_a_turn else (14, 14, 1)}


def test_a_module_that_runs_twice_has_no_more_turns(monkeypatch):
    attend_twice(monkeypatch, SECOND["other values"][0])
    attend_twice(monkeypatch, SECOND["the same"][0], anew=True)
    assert shapes(tiny.build("llama")) == {(14, 28, 2)}


@pytest.mark.parametrize("anew", [False, True])
@torch.no_grad()
def test_turns_are_those_of_one_interface(monkeypatch, anew):
    attend_twice(monkeypatch, SECOND["other values"][0], anew=anew)
    base, c, x = tiny.build("llama"), tiny.tokens(1, P, seed=7), tiny.tokens(1, 9)
    expected = base(torch.cat([c, x], dim=1)).logits[:, P:]
    model = of_tokens(tiny.build("llama"), c)
    assert shapes(model.get_base_model()) == {(14, 14, 1) if anew else (14, 28, 2)}
    assert torch.allclose(model(x).logits, expected, **EXACT) != anew


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_a_prefix_of_real_tokens_is_these_tokens(attn_implementation):
    base, c, x = diffllama(attn_implementation), tiny.tokens(1, P, seed=7), tiny.tokens(2, 9)
    whole = torch.cat([c.expand(2, -1), x], dim=1)
    model = of_tokens(diffllama(attn_implementation), c)
    torch.testing.assert_close(model(x).logits, base(whole).logits[:, P:], **EXACT)
    written = model.generate(input_ids=x, max_new_tokens=8, do_sample=False)
    assert torch.equal(written, reference.greedy(base, whole, 8)[:, P:])


def gradients(model, run):
    parameters = tiny.prefix_parameters(model)
    for parameter in parameters.values():
        parameter.grad = None
    run(tiny.tokens(2, 9)).logits.logsumexp(-1).square().mean().backward()
    return [parameter.grad for parameter in parameters.values()]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_forward_that_runs_again_counts_again(use_reentrant):
    model = tiny.fill(prefix_peft.wrap(diffllama(), P)).train()
    plain = gradients(model, model)
    assert all(share.abs().max() > 0 for gradient in plain for share in gradient.chunk(2, dim=-1))
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    torch.testing.assert_close(gradients(model, model), plain)


def test_compiled():
    torch.compiler.reset()
    model = tiny.fill(prefix_peft.wrap(diffllama(), P)).train()
    plain = gradients(model, model)
    torch.testing.assert_close(gradients(model, torch.compile(model, fullgraph=True, backend="aot_eager")), plain)


@torch.no_grad()
def test_a_forward_that_is_interrupted_counts_for_nothing(monkeypatch):
    broken = []

    def between():
        if broken:
            raise InterruptedError
        return nullcontext()

    attend_twice(monkeypatch, SECOND["other values"][0], between)
    model, x = tiny.fill(prefix_peft.wrap(tiny.build("llama"), P)).eval(), tiny.tokens(1, 9)
    before = model(x).logits
    broken.append(True)
    with pytest.raises(InterruptedError):
        model(x)
    broken.clear()
    assert torch.equal(model(x).logits, before)


@torch.no_grad()
def test_threads_count_for_themselves(monkeypatch):
    """Both have had the first turn before either has the second."""
    meeting, alone = threading.Barrier(2), [True]

    def between():
        if not alone:
            meeting.wait(timeout=30)
        return nullcontext()

    attend_twice(monkeypatch, SECOND["other values"][0], between)
    model = tiny.fill(prefix_peft.wrap(tiny.build("llama"), P)).eval()
    texts, found = [tiny.tokens(1, 9, seed=seed) for seed in (0, 1)], {}
    expected = [model(text).logits for text in texts]
    alone.clear()

    def run(i):
        with torch.no_grad():
            found[i] = model(texts[i]).logits

    threads = [threading.Thread(target=run, args=[i]) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in range(2))


@torch.no_grad()
def test_rows_and_gates():
    model, x = prefix_peft.wrap(diffllama(), P), tiny.tokens(3, 9)
    model.add_adapter("gated", prefix_peft.PrefixConfig(num_virtual_tokens=3, gate=True, task_type="CAUSAL_LM"))
    tiny.fill(model).eval()
    names = ["gated", "__base__", "default"]
    together = model(x, adapter_names=names).logits
    with model.disable_adapter():
        own = [model(x).logits]
    for name in ("gated", "default"):
        model.set_adapter(name)
        own.append(model(x).logits)
    torch.testing.assert_close(together, torch.stack([own[1][0], own[0][1], own[2][2]]), atol=1e-4, rtol=1e-4)
    assert all((own[0] - other).abs().max() > 0.1 for other in own[1:])
