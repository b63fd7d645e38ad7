"""Both forms of the equation against a loop in float64."""

import pytest
import reference
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

from prefix_peft.attention.attend import attend_with_prefix
from prefix_peft.attention.terms import AttentionCall, Prefix

B, H, G, P, T, S, D = 2, 6, 2, 3, 4, 5, 7
FUNCTIONS = {"eager": eager_attention_forward, "sdpa": sdpa_attention_forward}
OTHERS = {"flex_attention": flex_attention_forward, "flash_attention_2": None}


class Attention(nn.Module):
    """What transformers' attention functions ask of a module."""

    num_key_value_groups = H // G
    is_causal = True


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def qkv():
    return draw(B, H, T, D, seed=0), draw(B, G, S, D, seed=1), draw(B, G, S, D, seed=2)


def prefix(rows: int = 1, gate: torch.Tensor | None = None, visible: torch.Tensor | None = None) -> Prefix:
    gate = None if gate is None else gate[None, :, None].expand(rows, -1, P)
    visible = None if visible is None else visible[:, None]
    return Prefix(draw(rows, G, P, D, seed=3), draw(rows, G, P, D, seed=4), gate, visible)


def call(implementation, qkv, mask, prefix, **kwargs):
    options = {"scaling": D**-0.5, "dropout": 0.0} | kwargs
    attention = AttentionCall(
        (FUNCTIONS | OTHERS)[implementation], implementation, Attention().eval(), *qkv, mask, options
    )
    return attend_with_prefix(attention, prefix)[0]


def expected(qkv, allowed, prefix, gate=None, bias=None):
    rows = len(prefix.key)
    keys = [prefix.key[b % rows] for b in range(B)]
    values = [prefix.value[b % rows] for b in range(B)]
    if prefix.visible is not None:
        keys = [key[:, shown] for key, shown in zip(keys, prefix.visible[:, 0], strict=True)]
        values = [value[:, shown] for value, shown in zip(values, prefix.visible[:, 0], strict=True)]
    return reference.attention(*qkv, allowed, keys, values, gate, bias).float()


def causal(queries: int = T, keys: int = S) -> torch.Tensor:
    """Query t sees keys up to t + S - T: the last queries of a longer sequence."""
    return torch.ones(B, queries, keys, dtype=torch.bool).tril(keys - queries)


@pytest.mark.parametrize("implementation", FUNCTIONS)
def test_additive_and_boolean_masks(implementation, qkv):
    allowed = causal()
    allowed[1, :, 0] = False  # a padded row
    additive = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    out = call(implementation, qkv, additive, prefix())
    torch.testing.assert_close(out, expected(qkv, allowed, prefix()))
    if implementation == "sdpa":
        torch.testing.assert_close(call(implementation, qkv, allowed[:, None], prefix()), out)


def test_no_mask_means_causal_from_the_top_left_to_sdpa(qkv):
    square = (qkv[0], qkv[1][:, :, :T], qkv[2][:, :, :T])
    out = call("sdpa", square, None, prefix())
    torch.testing.assert_close(out, expected(square, causal(T, T), prefix()))
    longer = call("sdpa", qkv, None, prefix())  # an empty static cache is longer than what it holds
    torch.testing.assert_close(longer, out)


@pytest.mark.parametrize("implementation", FUNCTIONS)
def test_no_mask_means_everything_for_one_query_and_for_encoders(implementation, qkv):
    one = (qkv[0][:, :, :1], *qkv[1:])
    everything = torch.ones(B, T, S, dtype=torch.bool)
    torch.testing.assert_close(call(implementation, one, None, prefix()), expected(one, everything, prefix()))
    out = call(implementation, qkv, None, prefix(), is_causal=False)
    torch.testing.assert_close(out, expected(qkv, everything, prefix()))


@pytest.mark.parametrize("implementation", FUNCTIONS)
def test_rows_with_prefixes_of_different_lengths(implementation, qkv):
    visible = torch.tensor([[True, True, False], [False, False, False]])
    allowed = causal()
    additive = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    ours = prefix(B, visible=visible)
    torch.testing.assert_close(call(implementation, qkv, additive, ours), expected(qkv, allowed, ours))
    one = (qkv[0][:, :, :1], *qkv[1:])
    torch.testing.assert_close(
        call(implementation, one, None, ours), expected(one, torch.ones(B, 1, S, dtype=torch.bool), ours)
    )


@pytest.mark.parametrize("implementation", FUNCTIONS)
def test_gate_weighs_the_mass_of_the_prefix(implementation, qkv):
    gate = torch.tensor([0.3, -1.7])
    allowed = causal()
    additive = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[:, None]
    out = call(implementation, qkv, additive, prefix(gate=gate))
    torch.testing.assert_close(out, expected(qkv, allowed, prefix(), gate))


def test_a_shut_gate_is_the_base_model_bit_for_bit_and_has_a_gradient(qkv):
    gate = torch.zeros(G, requires_grad=True)
    additive = torch.where(causal(), 0.0, torch.finfo(torch.float32).min)[:, None]
    out = call("sdpa", qkv, additive, prefix(gate=gate))
    bare, _ = sdpa_attention_forward(Attention(), *qkv, additive, scaling=D**-0.5)
    assert torch.equal(out, bare)
    out.square().sum().backward()
    assert gate.grad is not None and gate.grad.abs().min() > 0


def test_a_query_that_sees_nothing_but_a_shut_prefix_stays_finite(qkv):
    nothing = torch.full((B, 1, T, S), torch.finfo(torch.float32).min)
    out = call("eager", qkv, nothing, prefix(gate=torch.zeros(G)))
    assert out.isfinite().all()


def test_position_bias_belongs_to_the_sequence(qkv):
    bias = draw(H, T, S, seed=5)
    additive = torch.where(causal(), 0.0, torch.finfo(torch.float32).min)[:, None]
    out = call("sdpa", qkv, additive, prefix(), position_bias=bias[None])
    torch.testing.assert_close(out, expected(qkv, causal(), prefix(), bias=bias))


@pytest.mark.parametrize("rows", [1, B])
def test_flex_attention_with_a_block_mask(qkv, rows):
    visible = None if rows == 1 else torch.tensor([[True, True, False], [True, True, True]])
    mask = create_block_mask(lambda b, h, q, k: k <= q + S - T, B, None, T, S, device="cpu")
    ours = prefix(rows, visible=visible)
    with torch.no_grad():
        out = call("flex_attention", qkv, mask, ours)
    torch.testing.assert_close(out, expected(qkv, causal(), ours))


def test_functions_that_cannot_be_served_are_refused_by_name(qkv):
    with pytest.raises(NotImplementedError, match="Attention runs attn_implementation='flash_attention_2'"):
        call("flash_attention_2", qkv, None, prefix())
