"""Compiled and exported models against the same models as they are."""

import pytest
import test_rows
import tiny
import torch
from transformers import CompileConfig

import prefix_peft
from prefix_peft import PrefixConfig

OPTIONS = {
    "llama": {},
    "qwen3": {"num_frozen_tokens": 1},
    "gpt2": {"position_mode": "shift", "gate": True},
    "t5": {"prefix_projection": True},
}


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def wrapped(family, **options):
    return tiny.fill(prefix_peft.wrap(tiny.build(family), 3, **options)).eval()


def of_one_layer():
    """With prefixes of 3 and of 6; graphs of few operations compile in no time."""
    base = tiny.build("llama")
    del base.model.layers[1:]
    model = prefix_peft.wrap(base, 3)
    model.add_adapter("long", PrefixConfig(num_virtual_tokens=6, task_type="CAUSAL_LM"))
    return tiny.fill(model).eval()


class Counting:
    """A backend that runs graphs as they are and counts how many it was given."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward

    def __deepcopy__(self, memo):  # transformers copies what it is told of compilation
        return self


@pytest.mark.parametrize("family", OPTIONS)
@torch.no_grad()
def test_forward_is_one_graph_that_sees_the_prefix_change(family):
    model, given, backend = wrapped(family, **OPTIONS[family]), tiny.inputs(family), Counting()
    compiled, before = torch.compile(model, fullgraph=True, backend=backend), model(**given).logits
    torch.testing.assert_close(compiled(**given).logits, before)
    tiny.fill(model, seed=9)
    after = model(**given).logits
    assert not torch.allclose(before, after)
    torch.testing.assert_close(compiled(**given).logits, after)
    assert backend.graphs == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients(family):
    model = wrapped(family, **OPTIONS[family]).train()
    parameters, ids = tiny.prefix_parameters(model), tiny.tokens(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    own, theirs = (
        torch.autograd.grad(run(ids).logits.logsumexp(-1).square().mean(), list(parameters.values()))
        for run in (model, compiled)
    )
    assert all(gradient.abs().max() > 0 for gradient in own)
    torch.testing.assert_close(theirs, own)


def test_switching_adapters_compiles_each_once():
    model, ids, backend = of_one_layer(), tiny.tokens(2, 9), Counting()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for name in ("default", "long", "__base__") * 2:
        own, theirs = (test_rows.alone(model, name, lambda run=run: run(ids).logits) for run in (model, compiled))
        torch.testing.assert_close(theirs, own)
    assert backend.graphs == 3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoding_with_a_static_cache(family):
    model, ids, backend = test_rows.several(family), tiny.tokens(2, 7, seed=1), Counting()
    config = CompileConfig(backend=backend, mode=None, fullgraph=True)
    config._compile_all_devices = True  # transformers would not compile on a CPU
    static = {"cache_implementation": "static", "compile_config": config}
    scores, graphs = [], []
    for name in ("default", "long", "__base__", "default"):
        own, theirs = (
            test_rows.alone(model, name, lambda more=more: decode(model, ids, **more)) for more in ({}, static)
        )
        assert torch.equal(own.sequences, theirs.sequences), name
        torch.testing.assert_close(torch.cat(theirs.scores), torch.cat(own.scores))
        scores.append(own.scores[1])
        graphs.append(backend.graphs)
    assert all((scores[i] - scores[i + 1]).abs().max() > 1e-2 for i in range(3)), "the prefixes must matter"
    assert graphs[0] == 1


def decode(model, ids, **options):
    return model.generate(
        ids, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_scores=True, **options
    )


@torch.no_grad()
def test_rows_with_prefixes_of_their_own():
    model, ids = of_one_layer(), tiny.tokens(2, 9)
    compiled = torch.compile(model, backend=Counting())
    for names in (["default", "long"], ["long", "__base__"]):
        own, theirs = (run(ids, adapter_names=names).logits for run in (model, compiled))
        torch.testing.assert_close(theirs, own)


@torch.no_grad()
def test_inductor():
    model, ids = of_one_layer(), tiny.tokens(2, 9)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(ids).logits, model(ids).logits)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # of transformers' own
@pytest.mark.parametrize(("family", "strict"), [("llama", False), ("gpt2", True), ("t5", False)])
@torch.no_grad()
def test_export(family, strict):
    model, given = wrapped(family, **OPTIONS[family]), tiny.inputs(family) | {"use_cache": False}
    base = model.get_base_model()
    program = torch.export.export(base, (), given, strict=strict)
    assert set(program.state_dict) == set(base.state_dict())
    other = {name: value.flip(1) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    torch.testing.assert_close(program.module()(**other).logits, model(**other).logits)


@torch.no_grad()
def test_export_of_any_length():
    model = wrapped("llama")
    given = {"input_ids": tiny.tokens(2, 9), "use_cache": False}
    shapes = {"input_ids": {1: torch.export.Dim.DYNAMIC}, "use_cache": None}
    program = torch.export.export(model.get_base_model(), (), given, dynamic_shapes=shapes, strict=False)
    ids = tiny.tokens(2, 14, seed=1)
    torch.testing.assert_close(program.module()(input_ids=ids, use_cache=False).logits, model(ids).logits)
