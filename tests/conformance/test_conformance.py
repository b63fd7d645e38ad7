"""The zoo's checks on some architectures that differ; the command runs them on every one."""

from __future__ import annotations

import families
import pytest
import tiny
import torch
from runner import CHECKS, EXCUSED, FAIL, NOT_APPLICABLE, PASS, run
from zoo import MAPPINGS, Case, cases, tokens

import prefix_peft

LIMIT = 30  # seconds for one check, of which most take a tenth of one
REPRESENTATIVES = [  # and what they stand for
    Case("causal", "gpt2"),  # learned positions
    Case("causal", "llama"),  # rotary positions, grouped heads
    Case("causal", "gemma3n_text"),  # layers that share keys and values, sliding windows
    Case("causal", "gpt_oss"),  # sinks
    Case("causal", "deepseek_v3"),  # keys and values of different widths
    Case("causal", "diffllama"),  # two attention calls a layer
    Case("causal", "jamba"),  # recurrent layers between those that attend
    Case("causal", "bert"),  # an encoder that decodes
    Case("causal", "gptj"),  # attention by hand: matrix products, and positions it looks up itself
    Case("causal", "ctrl"),  # a table of positions that is a buffer
    Case("causal", "mpt"),  # by hand: biases that belong to the keys
    Case("causal", "xlnet"),  # by hand: einsums, the batch in the middle
    Case("causal", "blt"),  # a network beside it that only cuts the text into pieces
    Case("causal", "moss_transcribe_diarize"),  # positions that its forward pass does not name
    Case("seq2seq", "bart"),  # learned positions, cross-attention
    Case("seq2seq", "t5"),  # relative biases
    Case("seq2seq", "led"),  # by hand, in bands
    Case("seq2seq", "t5gemma2"),  # self- and cross-attention in one call
    Case("seq2seq", "qwen2_audio"),  # a decoder behind an audio tower
]


@pytest.mark.filterwarnings("ignore")  # tiny models have warnings of their own
@pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)
def test_nothing_fails_that_the_bare_model_can_do(case):
    results = {result.check: result for result in run(case, list(CHECKS), LIMIT)}
    failures = [f"{result.check}: {result.details}" for result in results.values() if result.outcome == FAIL]
    assert not failures, "\n".join(failures)
    excused = [name for name, result in results.items() if result.outcome == EXCUSED]
    assert not {"wraps", "gradients", "save_load", "rows"} & set(excused), "these hold of every bare model here"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case",
    [
        Case("causal", "ministral3"),  # scales queries by their position, for which there is none left of a text
        Case("causal", "moss_transcribe_diarize"),  # takes position_ids without naming them
        Case("causal", "musicgen"),  # sinusoidal positions, selected by index
        Case("seq2seq", "m2m_100"),
        Case("seq2seq", "t5gemma"),  # a decoder with rotary positions of its own
        Case("seq2seq", "t5gemma2"),  # text that knows by its encoder's keys where it stands
        Case("causal", "diffllama"),  # two values to each key
    ],
    ids=str,
)
def test_real_tokens_stand_to_the_left_wherever_positions_come_from(case):
    [result] = run(case, ["real_tokens"], LIMIT)
    assert result.outcome == PASS, result.reason + result.details


@pytest.mark.filterwarnings("ignore")
def test_a_softmax_over_layers_is_no_attention():
    [result] = run(Case("causal", "inkling2_text"), ["wraps"], LIMIT)
    assert result.outcome == PASS, result.details


@pytest.mark.filterwarnings("ignore")
def test_where_attention_is_merged_a_prefix_is_of_the_decoders_own_tokens():
    case = Case("seq2seq", "t5gemma2")
    model = prefix_peft.wrap(case.build(), 5, sites=["decoder"])
    prefixes = []
    for seed in (7, 8):
        prefix_peft.initialize_kv_prefix_from_tokens(model, tokens(1, 5), decoder_input_ids=tokens(1, 5, seed=seed))
        prefixes.append([parameter.clone() for parameter in tiny.prefix_parameters(model).values()])
    assert not any(torch.equal(one, other) for one, other in zip(*prefixes, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", families.ATTENTION_FREE)
def test_models_without_attention_are_refused(name):
    results = run(Case("causal", name), list(CHECKS), LIMIT)
    assert [(result.check, result.outcome) for result in results if result.outcome != NOT_APPLICABLE] == [
        ("refusal", PASS)
    ]


def test_the_zoo_holds_every_entry_of_both_mappings():
    built = {(case.task, case.name) for case in cases()}
    entries = {(task, name) for task, names in MAPPINGS.items() for name in names}
    assert built | families.NOT_BUILT.keys() == entries
    assert not built & families.NOT_BUILT.keys()
    known = {name for _, name in entries}
    named = {*families.ATTENTION_FREE, *families.TOLD_TO_DECODE, *families.PART_OF_A_MODEL, *families.ENTRIES}
    assert named <= known, f"no architecture is called {sorted(named - known)}"
