"""torch's kernels: what they are called with, and what happens where they do not do what they should."""

import logging

import pytest
import tiny
import torch

import prefix_peft
from prefix_peft.attention import kernels, merged, tried


@pytest.mark.parametrize("dtype", kernels.DTYPES["cuda"])
@pytest.mark.parametrize(("queries", "keys", "masked"), [(5, 5, False), (1, 7, False), (5, 7, True)])
def test_the_operators_of_cuda_take_what_they_are_given(dtype, queries, keys, masked):
    """On tensors without numbers: operators and shapes are checked here, numbers by the trial where there is a GPU."""
    query = torch.empty(2, queries, 4, 16, device="meta", dtype=dtype).transpose(1, 2)
    key, value = (torch.empty(2, 2, keys, 16, device="meta", dtype=dtype) for _ in range(2))
    mask = torch.empty(2, 1, queries, keys, device="meta", dtype=dtype) if masked else None
    over = merged.Over(mask, causal=queries == keys)
    out, lse, rest = kernels.attend(query, key, value, *over)
    gradients = kernels.differentiate(torch.empty_like(out), query, key, value, out, lse, rest, *over)
    assert out.shape == query.shape and lse.shape == query.shape[:3] and lse.dtype == torch.float32
    assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, value.shape]


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(tried, "_tried", {})


def test_kernels_that_fail_their_trial_are_not_used(untried, monkeypatch, caplog):
    model, ids = tiny.fill(prefix_peft.wrap(tiny.build("llama"), 3)).eval(), tiny.tokens(2, 5)
    right = model(ids).logits
    assert {site.form for site in prefix_peft.inspect(model)} == {"merged"}
    attend = kernels.attend

    def wrong(*arguments):
        out, lse, rest = attend(*arguments)
        return out, lse * 1.01, rest  # as if it were to the base 2, say

    monkeypatch.setattr(merged, "attend", wrong)
    tried._tried.clear()
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(model(ids).logits, right)
        model(ids)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "torch's kernels for torch.float32 on cpu failed a trial" in caplog.text
    assert {site.form for site in prefix_peft.inspect(model)} == {"joined"}


def test_a_trial_leaves_no_trace_in_a_checkpointed_step(untried):
    model, ids = tiny.fill(prefix_peft.wrap(tiny.build("llama"), 3)), tiny.tokens(2, 5)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    tried._tried.clear()
    model.train()(ids, labels=ids).loss.backward()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with_trial = [parameter.grad.clone() for parameter in parameters]
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    for before, parameter in zip(with_trial, parameters, strict=True):
        assert torch.equal(before, parameter.grad)


@pytest.mark.parametrize(
    ("query", "value", "reason"),
    [
        (torch.zeros(1, 1, 2, 8, dtype=torch.float64, device="meta"), 8, "no kernel for torch.float64 on meta"),
        (torch.zeros(1, 1, 2, 8), 6, "keys of 8 and values of 6 numbers"),
        (torch.zeros(1, 1, 2, 8), 8, ""),
    ],
)
def test_why_no_kernel(query, value, reason):
    assert kernels.why_no_kernel(query, query, query.new_zeros(1, 1, 2, value)) == reason
