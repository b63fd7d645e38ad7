"""The demo's texts are reproducible, and its task is one that the base has never seen."""

import re
from itertools import islice

import pytest

from prefix_peft.demo.records import ARROW, pairs, pretraining_texts

SPLITS = {"train": 600, "validation": 60, "test": 120}
IDIOMS = ("sailors bless", "metres of stone", "watched over", "eye winks", "never sleeps.", "trims the wick", "no hand")


def parse(source: str) -> dict[str, str]:
    return dict(field.split(" : ") for field in source.split(" | "))


@pytest.fixture(scope="module")
def pretraining() -> str:
    return "\n".join(pretraining_texts(20_000, seed=0))


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict[str, str]]]:
    return {split: [parse(pair["source"]) for pair in pairs(split)] for split in SPLITS}


def test_same_seed_same_text_and_another_seed_another_text():
    assert list(pretraining_texts(50, seed=3)) == list(pretraining_texts(50, seed=3))
    assert list(pretraining_texts(50, seed=3)) != list(pretraining_texts(50, seed=4))


def test_count_only_cuts_the_text():
    assert list(pretraining_texts(20, seed=5)) == list(islice(pretraining_texts(40, seed=5), 20))


def test_pairs_are_the_same_every_time():
    assert pairs("test") == pairs("test")


@pytest.mark.parametrize(("split", "size"), SPLITS.items())
def test_sizes(split, size):
    assert len(pairs(split)) == size
    assert {len(pair["references"]) for pair in pairs(split)} == {1, 2, 3}


def test_no_invented_name_is_shared_between_records(records):
    names = [record["name"].split()[0] for split in SPLITS for record in records[split]]
    assert len(set(names)) == len(names)


def test_sources_parse_into_a_name_and_three_to_six_attributes(records):
    for record in (record for split in SPLITS for record in records[split]):
        assert next(iter(record)) == "name"
        assert {"lit", "guards"} < set(record) <= {"name", "lit", "guards", "tower", "beam", "flash", "keeper"}
        assert 4 <= len(record) <= 7


def test_every_reference_says_every_value_of_its_record():
    for pair in (pair for split in SPLITS for pair in pairs(split)):
        values = parse(pair["source"]).values()
        assert all(value in reference for reference in pair["references"] for value in values)
        assert len(set(pair["references"])) == len(pair["references"])


def test_pretraining_never_mentions_the_attributes_or_the_idioms_of_the_task(pretraining, records):
    words = set(re.findall(r"\w+", pretraining.lower()))
    attributes = {attribute for record in records["train"] for attribute in record} - {"name"}
    assert not words & (attributes | {"lighthouse", "lighthouses"})
    assert [idiom for idiom in IDIOMS if idiom in pretraining.lower()] == []


def test_every_idiom_is_spoken_in_the_task():
    spoken = " ".join(reference for pair in pairs("train") for reference in pair["references"]).lower()
    assert [idiom for idiom in IDIOMS if idiom not in spoken] == []


def test_pretraining_records_are_followed_by_many_kinds_of_continuation(pretraining):
    told = [line.split(f"{ARROW} ")[1] for line in pretraining.splitlines() if line.startswith("name : ")]
    openings = ("Question: ", "Of ", "News: ", '"Have you', "Facts: ")
    shares = [sum(text.startswith(opening) for text in told) / len(told) for opening in openings]
    assert min(shares) > 0.05
    assert sum(shares) < 0.7  # what remains is wordings and records in another order
