"""A prefix that starts from training pairs is the base behind these pairs."""

from __future__ import annotations

import re

import pytest
import tiny
import torch
from test_training import folder as folder
from test_training import options, released

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import EncodedPairs
from prefix_peft.data.pairs import load_data
from prefix_peft.initialize import initialize_kv_prefix_from_tokens
from prefix_peft.training.examples import fitting, start_from_pairs
from prefix_peft.training.train import train

EXACT = {"atol": 1e-5, "rtol": 1e-5}


def pairs_of(*lengths: tuple[int, int]) -> EncodedPairs:
    """Pairs of so many tokens, each side."""
    sides = [[tiny.tokens(1, n, seed=7 * n + i)[0].tolist() for n in pair] for i, pair in enumerate(lengths)]
    return EncodedPairs([{"input_ids": x, "labels": y} for x, y in sides], truncated=0)


@torch.no_grad()
def test_the_model_behind_pairs_is_the_base_that_reads_them_first():
    pairs, x = pairs_of((4, 4), (30, 30), (3, 3), (5, 5)), tiny.tokens(2, 9, seed=50)
    model = prefix_peft.wrap(tiny.build("llama"), 12)
    start_from_pairs(model, pairs, seed=3)
    chosen = [token for number in fitting(pairs, 12, seed=3) for token in pairs[number]["input_ids"]]
    assert len(chosen) == 12, "all pairs but the long one"
    read = torch.cat([torch.tensor([chosen, chosen]), x], dim=1)
    expected = tiny.build("llama")(read).logits[:, 12:]
    torch.testing.assert_close(model.eval()(x).logits, expected, **EXACT)


def test_an_encoder_reads_the_sources_and_its_decoder_the_targets():
    pairs, model, other = pairs_of((5, 3)), *(prefix_peft.wrap(tiny.build("bart"), length) for length in (5, 5))
    start_from_pairs(model, pairs, seed=0)
    sources, targets = (torch.tensor(pairs[0][side]) for side in ("input_ids", "labels"))
    initialize_kv_prefix_from_tokens(other, sources, torch.cat([targets, targets[:2]]))
    ours, theirs = map(tiny.prefix_parameters, (model, other))
    for name, p in ours.items():
        read = 3 if ".self_attn" in name and ".decoder." in name else 5  # of the decoder's, what came before the copies
        torch.testing.assert_close(p[:, :read], theirs[name][:, :read], **EXACT)
        assert read == 5 or not torch.equal(p[:, read:], p[:, : 5 - read])


def test_pairs_are_taken_whole_while_they_fit_and_in_an_order_of_the_seed():
    pairs = pairs_of(*[(length, length) for length in (7, 9, 4, 30, 6, 8)])
    found = {seed: fitting(pairs, 20, seed) for seed in range(8)}
    assert len({tuple(numbers) for numbers in found.values()}) > 3
    for seed, numbers in found.items():
        sizes = [len(pairs[number]["input_ids"]) for number in numbers]
        rest = [len(pairs[number]["input_ids"]) for number in range(6) if number not in numbers]
        assert sum(sizes) <= 20 and min(rest) > 20 - sum(sizes), "no other would fit"
        assert numbers == fitting(pairs, 20, seed)
    assert len(fitting(pairs, 3, 0)) == 1, "the beginning of one, where none fits"
    assert fitting(pairs_of((3, 9), (9, 3), (1, 1)), 4, 0) == [2], "both sides have to fit"


@pytest.mark.parametrize("more", [{"scale_parameter": True}, {"prefix_projection": True, "encoder_hidden_size": 64}])
def test_training_starts_there_where_it_is_asked_to(more, folder, tmp_path):
    given = {"num_virtual_tokens": 60, "learning_rate": 0, "max_steps": 1, "seed": 5, **more}
    train(options(folder, tmp_path, init_examples=True, **given))
    base, tokenizer = load_base(str(folder / "gpt2"))
    model = prefix_peft.wrap(base, 60)
    pairs, _ = load_data(options(folder, tmp_path), tokenizer, seq2seq=False)
    start_from_pairs(model, pairs, seed=5)
    read = sum(len(pairs[number]["input_ids"]) for number in fitting(pairs, 60, seed=5))
    model.save_pretrained(tmp_path / "start")
    found, expected = released(tmp_path), released(tmp_path / "start")
    assert found.keys() == expected.keys()
    for name, p in expected.items():  # 0.061 is what the fit of the MLP leaves on average
        error = (found[name] - p)[:, :read].norm() / p[:, :read].norm()  # copies behind these have some noise
        assert error < (0.2 if "prefix_projection" in more else 1e-6), name
    assert re.search(r"init_examples +\| True", (tmp_path / "README.md").read_text())


def test_two_starts_are_refused(capsys):
    command = ["train", "--model", "m", "--train-file", "f", "--output-dir", "o"]
    assert main([*command, "--init-text", "some words", "--init-examples"]) == 2
    assert "--init-text 'some words', or the training pairs (--init-examples)" in capsys.readouterr().err
