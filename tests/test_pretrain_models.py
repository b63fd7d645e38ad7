"""The bases' models: their loss, where their attention is guided to, and the warm start from a decoder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.pretrain.guide import Guide
from experiments.pretrain.loss import mean_loss, total_loss
from experiments.pretrain.warm_start import warm_start


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_the_loss_is_the_models_own(family):
    model = tiny.build(family)
    ids = tiny.tokens(3, 11)
    labels = torch.where(torch.arange(11) < 4, -100, ids)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(**batch).loss.float()
    total, count, _ = total_loss(model, batch)
    assert count == 3 * 7
    torch.testing.assert_close(total / count, expected, rtol=1e-3, atol=0)  # the head's batch is rounded otherwise
    assert mean_loss(model, [batch, batch]) == pytest.approx((total / count).item(), rel=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_the_guide_asks_for_the_token_before_and_for_the_next_one_in_the_source(family):
    model, seq2seq = tiny.build(family, attn_implementation="eager"), family == "bart"
    forms = torch.arange(tiny.VOCAB).clamp_min(-1)
    forms[9], forms[10] = forms[8], -1  # 8 and 9 are one word, 10 is none
    source, target = [7, 8, 10, 7, 6], [10, 9, 7, 5]
    padded = [[*source, 0]] if seq2seq else [[*source, *target, 0]]
    ids = torch.tensor(padded)
    labels = torch.tensor([target] if seq2seq else [[-100] * 5 + target + [-100]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}
    guide = Guide(forms, back=(0,), copy=(1,))
    inputs = {"decoder_input_ids": torch.tensor([[1, *target[:-1]]])} if seq2seq else {}
    with torch.no_grad():
        outputs = model.base_model(ids, attention_mask=batch["attention_mask"], **inputs, output_attentions=True)
    back = outputs["encoder_attentions" if seq2seq else "attentions"][0][0]
    ahead = outputs["cross_attentions" if seq2seq else "attentions"][1][0]
    first = 0 if seq2seq else 4  # the query that predicts the target's first token
    expected = []
    for attention, places in (
        (back, {q: [q - 1] for q in range(1, 5 if seq2seq else 9)}),
        (ahead, {first + 1: [1], first + 2: [0, 3]}),  # 10 and 5 are not asked for
    ):
        nats = [-attention[head, q, right].sum().log() for head in range(2) for q, right in places.items()]
        expected.append(torch.stack(nats).mean())
    torch.testing.assert_close(guide.loss(outputs, batch, seq2seq), sum(expected))


def a_decoder() -> GPT2LMHeadModel:
    """Its biases are not 0 and its norms' scales not 1, as after training."""
    decoder = tiny.build("gpt2")
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.3)
    return decoder


def test_the_warm_started_decoder_is_the_decoder_whatever_the_encoder_reads():
    decoder = a_decoder()
    model = warm_start(decoder, tiny.VOCAB + 2, tiny.VOCAB, tiny.BOS, tiny.EOS)
    ids, read = tiny.tokens(2, 9), tiny.tokens(2, 5, seed=1)
    with torch.no_grad():
        expected = decoder(ids).logits
        for source in (read, read.flip(1)):
            logits = model(input_ids=source, decoder_input_ids=ids).logits
            torch.testing.assert_close(logits[..., : tiny.VOCAB], expected, rtol=1e-4, atol=1e-4)


def test_the_warm_started_encoder_is_the_decoder_without_its_causal_mask():
    decoder = a_decoder()
    model = warm_start(decoder, tiny.VOCAB, tiny.PAD, tiny.BOS, tiny.EOS)
    ids = tiny.tokens(2, 9)
    with torch.no_grad():
        both_ways = torch.zeros(2, 1, 9, 9)
        expected = decoder.transformer(ids, attention_mask=both_ways).last_hidden_state
        torch.testing.assert_close(model.model.encoder(ids).last_hidden_state, expected, rtol=1e-4, atol=1e-4)


def test_what_blenderbot_cannot_be_is_refused():
    decoder = a_decoder()
    with pytest.raises(ValueError, match=f"has {tiny.VOCAB} tokens, got a vocabulary of 5"):
        warm_start(decoder, 5, tiny.PAD, tiny.BOS, tiny.EOS)
    decoder.config.layer_norm_epsilon = 1e-6
    with pytest.raises(ValueError, match="needs layer_norm_epsilon=1e-05, the decoder has 1e-06"):
        warm_start(decoder, tiny.VOCAB, tiny.PAD, tiny.BOS, tiny.EOS)
