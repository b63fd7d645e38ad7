"""What wrapping, loading and training cost besides attention: passes of the model, and runs of the MLP."""

import pytest
import tiny
import torch
from peft import PeftModel

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.encoders import MLPEncoder
from prefix_peft.layer import prefix_layers


class Passes:
    """Counts the forward passes of a model, of one layer at least."""

    def __init__(self, model):
        self.count = 0
        model.model.layers[0].register_forward_hook(self.add)

    def add(self, *_):
        self.count += 1

    def since(self):
        count, self.count = self.count, 0
        return count


def test_passes_of_the_model(tmp_path):
    base = tiny.build("llama")
    passes = Passes(base)
    model = prefix_peft.wrap(base, 3)
    assert passes.since() == 2  # one to see what attends, one for the activations among which the prefix starts
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "again")
    model.set_adapter("again")
    assert passes.since() == 0
    model.add_adapter("new", PrefixConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"))
    assert passes.since() == 1
    base = tiny.build("llama")
    passes = Passes(base)
    PeftModel.from_pretrained(base, tmp_path)
    assert passes.since() == 1


@pytest.fixture
def runs(monkeypatch):
    """How often any head of an MLP has run."""
    counted, compute = [], MLPEncoder._compute

    def counting(self):
        counted.append(self)
        return compute(self)

    monkeypatch.setattr(MLPEncoder, "_compute", counting)
    return counted


def projected():
    model = prefix_peft.wrap(tiny.build("llama"), 3, prefix_projection=True, encoder_hidden_size=8)
    return tiny.fill(model)


def test_the_mlp_runs_once_a_site_and_step_in_training_and_once_in_evaluation(runs):
    model, ids = projected(), tiny.tokens(4, 6)
    sites = len(prefix_layers(model))
    model.train()(ids, labels=ids).loss.backward()
    assert len(runs) == sites  # whatever the batch
    runs.clear()
    model.eval()
    with torch.no_grad():
        model.generate(input_ids=ids, max_new_tokens=5)
        model(ids)
    assert len(runs) == sites
    model(ids).logits.sum().backward()  # a gradient is asked for
    assert len(runs) == 2 * sites


CHANGES = {
    "in place": lambda p: p.add_(0.1),
    "through data": lambda p: p.data.add_(0.1),
    "another storage": lambda p: setattr(p, "data", p + 0.1),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_kept_prefix_is_never_stale(change):
    model, ids = projected().eval(), tiny.tokens(2, 6)
    before = model(ids).logits
    for name, parameter in model.named_parameters():
        if "prefix_kv" in name:
            CHANGES[change](parameter)
    after = model(ids).logits
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model.train()(ids).logits)


@torch.no_grad()
def test_a_step_and_a_loaded_state_are_seen():
    model, ids = projected().eval(), tiny.tokens(2, 6)
    logits, state = model(ids).logits, {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.allclose(model(ids).logits, logits)
    model.load_state_dict(state)
    torch.testing.assert_close(model(ids).logits, logits)


def test_inference_mode_keeps_a_prefix_too(runs):
    model, ids = projected().eval(), tiny.tokens(2, 6)
    with torch.inference_mode():
        first = model(ids).logits
        torch.testing.assert_close(model(ids).logits, first)
    assert len(runs) == len(prefix_layers(model))
    model(ids).logits.sum().backward()
