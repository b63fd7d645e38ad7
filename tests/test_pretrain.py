"""The bases' training: noise keeps what is to be copied, the warm start is the decoder, and a small run runs."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.pretrain import command
from experiments.pretrain.batches import Stream, batches
from experiments.pretrain.command import load, main
from experiments.pretrain.corpus import read_corpus, split_sentences
from experiments.pretrain.loop import Budget
from experiments.pretrain.mixture import Mixture, Pair
from experiments.pretrain.names import made_up
from experiments.pretrain.noise import content, draw_form, infill
from experiments.pretrain.words import items, rename, stem

SENTENCE = 'The Duke of York sailed from Cape Town in 1887, writing "The Long Way" while Anna Lee\'s brothers waited.'
NAMES = ["Duke of York", "Cape Town", "1887", '"The Long Way"', "Anna Lee"]
WORDS = ["sailed", "writing", "brothers", "waited"]
TEXT = """A title

The captain left Lisbon in 1887. He met Mr. Brown there. Anna Lee wrote two letters.
<|endoftext|>
Lisbon has three towers. Carlos Mardel built walls in 1755."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus of one text for training and for validation, and a byte-level GPT-2 to start from."""
    path = tmp_path_factory.mktemp("pretrain")
    (path / "corpus").mkdir()
    for name in ("encyclopedic_a", "books_b", "valid_c"):
        (path / "corpus" / f"{name}.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    tokenizer().save_pretrained(path / "start")
    config = GPT2Config(
        vocab_size=len(tokenizer()), n_embd=44, n_layer=3, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(path / "start")
    return path


@pytest.fixture(scope="module")
def corpus(folder):
    return read_corpus((folder / "corpus").glob("*.txt.gz"))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, after end-of-sequence."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|endoftext|>", *letters])}
    bytes_ = Tokenizer(models.BPE(vocabulary, []))
    bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def test_sentences_end_at_full_stops_but_not_at_abbreviations():
    text = 'Mr. Brown came. "Did J. R. Lee see?" He did! Then No. 5 left... St. Ives is far'
    assert split_sentences(text) == [
        "Mr. Brown came.", '"Did J. R. Lee see?"', "He did!", "Then No. 5 left...", "St. Ives is far",
    ]  # fmt: skip


def test_items_are_names_whole_and_content_words():
    found = items(SENTENCE, common=())
    assert [item.text for item in found if item.is_name] == NAMES
    assert [item.text for item in found if not item.is_name] == WORDS
    assert all(SENTENCE[item.start : item.end] == item.text for item in found)


def test_a_common_word_is_no_name_where_a_sentence_starts_with_it():
    assert [item.text for item in items("Defender Ben Davies left", common={"defender"}) if item.is_name] == [
        "Ben Davies"
    ]
    assert [item.text for item in items("Defender Ben Davies left", common={}) if item.is_name] == [
        "Defender Ben Davies"
    ]


@pytest.mark.parametrize(
    "word, expected",
    [
        ("waited", "wait"),
        ("towers", "tower"),
        ("Sailing", "sail"),
        ("red", "red"),
        ("thing", "thing"),
        ("captain's", "captain"),
    ],
)
def test_a_stem_lacks_one_ending(word, expected):
    assert stem(word) == expected


def test_content_keeps_every_name_verbatim_and_every_word_by_its_stem():
    found = items(SENTENCE, common=())
    for seed in range(100):
        form = replace(draw_form(Random(seed)), camel_case=False)
        source = content(found, form, Random(seed))
        plain = source.replace("_", " ")
        assert all(name in plain for name in NAMES), source
        assert form.underscores == ("Duke_of_York" in source)
        dropped = [word for word in WORDS if stem(word) not in plain]
        assert len(dropped) < len(WORDS)


def test_content_drops_words_in_some_sources_and_keeps_their_order_where_chunks_are_not_shuffled():
    found = items(SENTENCE, common=())
    form = replace(
        draw_form(Random(0)), shuffled=False, repeats=False, labelled=False, camel_case=False, underscores=False
    )
    expected = [item.text if item.is_name else stem(item.text) for item in found]
    lengths = set()
    for seed in range(30):
        source = content(found, form, Random(seed))
        places = [source.find(text) for text in expected if text in source]
        assert places == sorted(places)
        lengths.add(len(places))
    assert min(lengths) < len(expected) == max(lengths)


def test_infilling_masks_spans_of_small_words_alone():
    shorter = 0
    for seed in range(50):
        source = infill([SENTENCE], "<mask>", Random(seed))
        kept = source.replace("<mask>", "").split()
        words = iter(SENTENCE.split())
        assert all(word in words for word in kept)  # a subsequence
        assert [word for word in kept if not word.islower()] == [
            word for word in SENTENCE.split() if not word.islower()
        ]
        shorter += len(kept) < len(SENTENCE.split())
    assert shorter > 25


def test_infilling_shuffles_whole_sentences():
    written = {
        infill(["one two", "three four"], "...", Random(seed)).replace(" ...", "").replace("... ", "")
        for seed in range(40)
    }
    assert {"one two three four", "three four one two"} <= written


def test_a_made_up_name_has_the_shape_of_the_true_one():
    name = made_up('"Duke of York 1887"', [], Random(0))
    first, of, last, number = name.strip('"').split()
    assert name[0] == name[-1] == '"' and of == "of" and first.istitle() and last.istitle()
    assert len(number) == 4 and number.isdigit() and name != '"Duke of York 1887"'


def test_renaming_changes_sentence_and_items_alike():
    found = items(SENTENCE, common=())
    sentence, renamed = rename(SENTENCE, found, {"Cape Town": "Ob", "1887": "31,000"})
    assert sentence == SENTENCE.replace("Cape Town", "Ob").replace("1887", "31,000")
    assert [sentence[item.start : item.end] for item in renamed] == [item.text for item in renamed]


def test_a_made_up_name_stands_in_source_and_target(corpus):
    pairs = Mixture(corpus, "<s>", copied=0, prose=0, infilled=0, renamed=1).draw(60, Random(0))
    assert not any("1887" in pair.source + pair.target for pair in pairs)
    for pair in pairs:
        names = [item.text for item in items(pair.target, corpus.common) if item.is_name]
        assert all(name in pair.source.replace("_", " ") for name in names), pair


def test_the_mixture_is_seeded_and_has_the_shares_asked_for(corpus):
    mixture = Mixture(corpus, "<s>", copied=0.0, prose=0.25)
    drawn = mixture.draw(400, Random(1))
    assert drawn == mixture.draw(400, Random(1)) != mixture.draw(400, Random(2))
    # four standard deviations of a binomial: 4 * sqrt(0.25 * 0.75 / 400) = 0.087
    assert sum(pair.separator == "<s>" for pair in drawn) / 400 == pytest.approx(0.25, abs=0.087)


def test_training_starts_with_mere_copies(corpus):
    drawn = Mixture(corpus, "<s>", copied=0.0, copying=0.5).draw(50, Random(0), share=0.0)
    assert all(pair.source.replace("_", " ") == pair.target for pair in drawn)
    later = Mixture(corpus, "<s>", copied=0.0, copying=0.5).draw(50, Random(0), share=0.5)
    assert sum(pair.source.replace("_", " ") == pair.target for pair in later) < 10


LENGTHS = (3, 30, 7, 12, 3, 70, *[5] * 12)


def test_batches_hold_every_pair_once_within_their_size():
    pairs = [Pair("a" * n, "=" if n % 2 else None, "b" * n) for n in LENGTHS]
    made = batches(pairs, tokenizer(), tokens=64, is_encoder_decoder=False)
    assert all(batch["input_ids"].numel() <= 64 or len(batch["input_ids"]) == 1 for batch in made)
    # an odd pair is its letters, "=", a space and the end; an even one has the spaces of the paper's form besides
    expected = sorted(2 * n + (3 if n % 2 else 6) for n in LENGTHS)
    assert sorted(length for batch in made for length in batch["attention_mask"].sum(1).tolist()) == expected


def test_the_stream_depends_on_the_seed_alone(corpus):
    def first(seed: int) -> list[list[int]]:
        return Stream(Mixture(corpus, "<|endoftext|>"), tokenizer(), 256, seed).next(0.3)["input_ids"].tolist()

    assert first(0) == first(0) != first(1)


def test_a_corpus_without_files_and_a_budget_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no files to read"):
        read_corpus(tmp_path.glob("*.txt.gz"))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"short"))
    with pytest.raises(ValueError, match=r"a\.txt\.gz has no sentence of 4 to 60 words"):
        read_corpus([tmp_path / "a.txt.gz"])
    for steps, minutes in ((None, None), (0, None), (3, 2.0)):
        with pytest.raises(ValueError, match="give either steps or minutes, above 0"):
            Budget(steps, minutes)
    assert Budget(steps=4).share(1, 1e9) == 0.25 and Budget(minutes=2).share(10**9, 30) == 0.25


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_run_learns_and_leaves_a_directory_that_loads(kind, folder, monkeypatch):
    monkeypatch.setattr(command, "HELD_OUT_EXAMPLES", 12)
    monkeypatch.setattr("experiments.pretrain.batches.WINDOW", 30)
    weights = []
    for output in (folder / f"{kind}-1", folder / f"{kind}-2"):
        options = f"--start {folder / 'start'} --corpus {folder / 'corpus'} --output {output} --steps 6 --tokens 512"
        assert main([kind, *options.split(), "--threads", "1"]) == 0
        auto = AutoModelForCausalLM if kind == "decoder" else AutoModelForSeq2SeqLM
        model = auto.from_pretrained(output)
        assert model.dtype == torch.float16
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    if kind == "encoder-decoder":
        with pytest.raises(ValueError, match="holds an encoder-decoder"):
            load(output, "decoder")
        continued = load(output, kind)[0].state_dict()
        assert all(torch.equal(value, continued[key].half()) for key, value in weights[1].items())
    log = json.loads((output / "training.json").read_text())["validation"]
    assert [entry["step"] for entry in log] == [0, 6] and log[1]["denoising"] < log[0]["denoising"]
    assert AutoTokenizer.from_pretrained(output).decode([1]) == AutoTokenizer.from_pretrained(folder / "start").decode(
        [1]
    )
