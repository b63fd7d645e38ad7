"""Attention written by hand in many ways: with a prefix, each is a loop in float64 that follows the definition."""

import pytest
import reference
import torch
import torch.nn.functional as F
from handmade import (
    ALLOWED,
    BIAS,
    FORBIDDEN,
    NO_ATTENTION,
    PLACES,
    SCALE,
    SHARED_KEYS,
    WAYS,
    B,
    D,
    H,
    Hand,
    S,
    T,
    V,
    expected,
    merged,
    prefix,
    qkv,
    served,
)

from prefix_peft.anatomy.sites import Site
from prefix_peft.by_hand.modes import Serve, Watch


@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_written(way):
    hand = Hand(**WAYS[way])
    torch.testing.assert_close(served(hand, prefix()), expected(prefix()))
    rows = prefix(B, lengths=[2, 0])
    torch.testing.assert_close(served(hand, rows), expected(rows))
    bare = hand(*qkv()).transpose(1, 2)
    assert torch.equal(served(hand, None), bare)
    if way == "written out":
        with pytest.raises(NotImplementedError, match="Hand writes its softmax out"):
            served(hand, prefix(gate=torch.ones(H)))
        return
    gate = torch.tensor([0.3, -1.7, 1.0])
    torch.testing.assert_close(served(hand, prefix(gate=gate)), expected(prefix(), gate=gate))
    assert torch.equal(served(hand, prefix(gate=torch.zeros(H))), bare)


@pytest.mark.parametrize("way", SHARED_KEYS)
def test_heads_that_share_their_keys(way):
    hand, gate = Hand(**SHARED_KEYS[way]), torch.tensor([-0.4])
    inputs = (qkv()[0], *qkv(1)[1:])
    for given in prefix(heads=1), prefix(B, 1, lengths=[2, 0]):
        torch.testing.assert_close(served(hand, given, 1), expected(given, 1))
    torch.testing.assert_close(
        served(hand, prefix(heads=1, gate=gate), 1, inputs=inputs), expected(prefix(heads=1), 1, gate=gate)
    )


@pytest.mark.parametrize("heads", [1, H])
def test_one_row_and_one_head(heads):
    hand = Hand(scores=lambda q, k: q @ k.mT, mask=lambda s: s)
    q, k, v = (tensor[:1, :heads] for tensor in qkv())
    given = prefix(heads=heads)
    with Serve(hand, Site("", "decoder", heads, D, V), lambda batch: given if batch == 1 else None):
        out = apart_from_heads(hand(q[0], k[0], v[0]))
    everything = torch.ones(1, T, S, dtype=torch.bool)
    torch.testing.assert_close(out, reference.attention(q, k, v, everything, given.key, given.value).float())


def apart_from_heads(out):
    """(B x H, T, V) of one row -> (1, T, H, V)"""
    return out[None].transpose(1, 2)


def test_what_is_added_to_the_scores_is_the_sequences():
    bias = BIAS.expand(B, -1, -1, -1)
    hand = Hand(mask=lambda s: s + BIAS + FORBIDDEN)
    torch.testing.assert_close(served(hand, prefix()), expected(prefix(), bias=bias))


@pytest.mark.parametrize("order", [1, -1])
def test_scores_of_positions_are_the_sequences(order):
    bias = torch.einsum("bhtd,bhsd->bhts", qkv()[0] + 1, PLACES) * SCALE

    def scores(q, k):
        content, places = q @ k.mT, (q + 1) @ PLACES.mT
        return content + places if order == 1 else places + content

    torch.testing.assert_close(served(Hand(scores=scores), prefix()), expected(prefix(), bias=bias))


@pytest.mark.parametrize("counted_from", [0.0, 11.0])
@pytest.mark.parametrize("way", ["matmul", "torch.baddbmm", "one call"])
def test_a_bias_of_the_keys_has_the_prefix_where_the_query_is(counted_from, way):
    slopes = torch.tensor([0.5, 0.25, 0.125])[:, None, None]
    distance = torch.arange(S) - torch.arange(S - T, S)[:, None]  # of the key, 0 at the query itself
    bias = (slopes * distance).expand(B, -1, -1, -1)
    alibi = slopes * (torch.arange(S) + counted_from)
    if way == "one call":
        hand = Hand(forward=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, alibi + FORBIDDEN))
    else:
        hand = Hand(**WAYS[way] | {"mask": lambda s: s + alibi + FORBIDDEN})
    for given in prefix(), prefix(B, lengths=[2, 0]):
        torch.testing.assert_close(served(hand, given, key_bias=True), expected(given, bias=bias))


@pytest.mark.parametrize("mask", ["additive", "boolean", "causal", "none"])
def test_a_whole_attention_in_one_call(mask):
    options = {"additive": {"attn_mask": FORBIDDEN}, "boolean": {"attn_mask": ALLOWED[:, None]}, "none": {}}
    options |= {"causal": {"is_causal": True}}
    hand = Hand(forward=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options[mask]))
    allowed = {"causal": torch.ones(B, T, S).tril().bool(), "none": torch.ones(B, T, S).bool()}.get(mask, ALLOWED)
    for given in prefix(), prefix(B, lengths=[2, 0]):
        torch.testing.assert_close(served(hand, given), expected(given, allowed=allowed))
    gate = torch.tensor([0.3, -1.7, 1.0])
    torch.testing.assert_close(served(hand, prefix(gate=gate)), expected(prefix(), allowed=allowed, gate=gate))
    assert torch.equal(served(hand, prefix(gate=torch.zeros(H))), hand(*qkv()).transpose(1, 2))


def test_a_cap_of_the_scores_and_a_dropout_of_the_weights_hold_for_the_prefix():
    capped = Hand(scale=lambda s: torch.tanh(s * SCALE) * 0.7, mask=lambda s: s)
    given = prefix()
    q, k, v = (tensor.double() for tensor in qkv())
    longer = (torch.cat([p.double().expand(B, -1, -1, -1), own], 2) for p, own in ((given.key, k), (given.value, v)))
    torch.testing.assert_close(served(capped, given), capped(q, *longer).float().transpose(1, 2))
    for training, count in (True, 0), (False, B * T * H * V):
        dropping = Hand(softmax=lambda s: F.dropout(s.softmax(-1), 1.0, training))  # noqa: B023
        assert served(dropping, given).count_nonzero() == count


@pytest.mark.parametrize("way", ["matmul", "mask beside merged heads", "a block a query", "written out"])
def test_gradients_are_those_of_finite_differences(way):
    gate = None if way == "written out" else torch.tensor([0.3, -1.7, 1.0], dtype=torch.float64)
    inputs = [tensor.double() for tensor in qkv()]

    def out(key, value, gate=None):
        return served(Hand(**WAYS[way]), prefix(gate=gate)._replace(key=key, value=value), inputs=inputs)[:, ::2]

    given = [tensor.double() for tensor in prefix()[:2]] + ([] if gate is None else [gate])
    assert torch.autograd.gradcheck(out, [tensor.requires_grad_() for tensor in given])


def seen_of(hand, *inputs):
    seen = []
    with Watch(lambda *what: seen.append(what)):
        out = hand(*inputs)
    assert torch.equal(out, hand(*inputs))
    return seen


@pytest.mark.parametrize("way", ["matmul", "written out"])
def test_a_call_has_one_prefix(way):
    """Drawn anew it would be another, with dropout."""
    given = []
    with Serve(Hand(**WAYS[way]), Site("", "decoder", H, D, V), lambda batch: given.append(prefix()) or given[-1]):
        Hand(**WAYS[way])(*qkv())
    assert len(given) == 1


def test_a_query_that_sees_nothing_but_a_shut_prefix_stays_finite():
    nothing = Hand(mask=lambda s: torch.full_like(s, torch.finfo(s.dtype).min) + 0 * s)
    assert served(nothing, prefix(gate=torch.zeros(H))).isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_watched(way):
    """The keys and values as they would come to the door; the blocks of a query are no keys."""
    _, k, v = qkv()
    _, key, value, _ = seen_of(Hand(**WAYS[way]), *qkv())[0]
    assert torch.equal(merged(key), merged(k)) and torch.equal(merged(value)[:, :2], merged(v)[:, :2])
    assert key.shape[-3] in (H, B * H)  # which are the same for the one row that is watched


@pytest.mark.parametrize("biased", [False, True])
def test_watched_a_bias_of_the_keys(biased):
    plain = Hand(mask=lambda s: s)
    bias = torch.arange(S) * 0.5 if biased else BIAS
    bias = bias + FORBIDDEN[:1]
    q, k, v = (tensor[:1] for tensor in qkv())
    for hand in Hand(mask=lambda s: s + bias), Hand(forward=lambda *qkv: F.scaled_dot_product_attention(*qkv, bias)):
        assert [what[3] for what in seen_of(hand, q, k, v)] == [biased]
        both = Hand(forward=lambda *qkv, first=hand: (first(*qkv), plain(*qkv))[1])
        assert [what[3] for what in seen_of(both, q, k, v)] == [biased, False]
    one_key = Hand(mask=lambda s: s + 1.0)
    assert [what[3] for what in seen_of(one_key, q, k[:, :, :1], v[:, :, :1])] == [False]
    boolean = Hand(forward=lambda *qkv: F.scaled_dot_product_attention(*qkv, ALLOWED[:1, None]))
    assert [what[3] for what in seen_of(boolean, q, k, v)] == [False]


@pytest.mark.parametrize("what", NO_ATTENTION)
def test_what_is_no_attention(what):
    assert seen_of(Hand(forward=NO_ATTENTION[what]), *qkv()) == []
