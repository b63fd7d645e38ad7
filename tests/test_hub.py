"""The tasks from the Hub: parquet files as the Hub makes them are read as the files of a folder are."""

import json
import re
import sys

import pytest
from test_training import folder  # noqa: F401

from prefix_peft.__main__ import main
from prefix_peft.data import hub
from prefix_peft.data.records import Record
from prefix_peft.data.tasks import TASKS, load_task

datasets = pytest.importorskip("datasets", reason="the tasks of the Hub are loaded by the datasets library")


def webnlg(category, triples, texts, file=""):
    """A row of webnlg-challenge/web_nlg."""
    sets = [[" | ".join(triple) for triple in triples]]
    lex = {"comment": ["good"] * len(texts), "lid": [f"Id{i}" for i in range(len(texts))], "text": texts,
           "lang": [""] * len(texts)}  # fmt: skip
    return {
        "category": category, "size": len(triples), "eid": "Id1", "original_triple_sets": {"otriple_set": sets},
        "modified_triple_sets": {"mtriple_set": sets}, "shape": "", "shape_type": "", "lex": lex, "test_category": file,
        "dbpedia_links": [], "links": [],
    }  # fmt: skip


AIRPORT = ("Airport", [["Aarhus_Airport", "cityServed", '"Aarhus | Denmark"'], ["Aarhus", "leader", "J."]])
ARTIST = ("Artist", [["Abradab", "birthPlace", "Katowice"]])
ROWS = {
    "webnlg": {
        "train": [webnlg(*AIRPORT, ["One.", "Two."]), webnlg(*AIRPORT, ["One.", "Two."])],  # the release has a copy
        "dev": [webnlg(*AIRPORT, ["Three."])],
        "test": [
            webnlg(*AIRPORT, [], "testdata_no_lex"),
            webnlg(*ARTIST, [], "testdata_no_lex"),
            webnlg(*ARTIST, ["He.", "Him."], "testdata_unseen_with_lex"),
            webnlg(*AIRPORT, ["It."], "testdata_with_lex"),
            webnlg(*ARTIST, ["He.", "Him."], "testdata_with_lex"),
        ],
    },
    "e2e": {
        "train": [
            {"meaning_representation": mr, "human_reference": reference}
            for mr, reference in [
                ("name[The Mill], eatType[pub], priceRange[£20-25], customer rating[3 out of 5]", "A pub."),
                ("name[Zizzi], familyFriendly[no]", "No place for children."),
                ("name[The Mill], eatType[pub], priceRange[£20-25], customer rating[3 out of 5]", "Mill, a pub."),
                ("name[Zizzi], familyFriendly[no]", "No place for children."),
            ]
        ]
    },
    "dart": {
        "train": [
            {
                "tripleset": [["Ben", "POSITION", "Guard"], ["[TABLECONTEXT]", "NAME", "Ben"]],
                "subtree_was_extended": False,
                "annotations": {"source": ["WikiSQL", "WikiSQL"], "text": ["Ben is a guard.", " "]},
            }
        ]
    },
    "scitldr": {
        "validation": [
            {
                "source": ["We try.", "It works."],
                "source_labels": [0, 1],
                "rouge_scores": [0.1, 0.5],
                "paper_id": "x",
                "target": ["It works.", "We tried."],
            }
        ]
    },
    "xsum": {"test": [{"document": "A long article.\nIt goes on.", "summary": "An article.", "id": "7"}]},
}
MILL = {"name": "The Mill", "eatType": "pub", "priceRange": "£20-25", "customer rating": "3 out of 5"}
LINES = {  # what a folder has of the same
    ("webnlg", "train"): [{"triples": AIRPORT[1], "references": ["One.", "Two."]}] * 2,
    ("webnlg", "validation"): [{"triples": AIRPORT[1], "references": ["Three."]}],
    ("webnlg", "test_seen"): [{"triples": AIRPORT[1], "references": ["It."]}],
    ("webnlg", "test_unseen"): [{"triples": ARTIST[1], "references": ["He.", "Him."]}],
    ("e2e", "train"): [
        {"mr": MILL, "references": ["A pub.", "Mill, a pub."]},
        {"mr": {"name": "Zizzi", "familyFriendly": "no"}, "references": ["No place for children."] * 2},
    ],
    ("dart", "train"): [
        {
            "triples": [["Ben", "POSITION", "Guard"], ["[TABLECONTEXT]", "NAME", "Ben"]],
            "references": ["Ben is a guard."],
        }
    ],
    ("scitldr", "validation"): [{"article": "We try. It works.", "references": ["It works.", "We tried."]}],
    ("xsum", "test"): [{"document": "A long article.\nIt goes on.", "summary": "An article."}],
}


@pytest.fixture
def hub_on_disk(tmp_path, monkeypatch):
    """The Hub's parquet branches as they lie there: repository, config, split."""
    for name, splits in ROWS.items():
        config = hub.HUB[name].config.replace("*", "default")
        for split, rows in splits.items():
            place = tmp_path / "hub" / hub.HUB[name].repository / config / split
            place.mkdir(parents=True)
            datasets.Dataset.from_list(rows).to_parquet(place / "0000.parquet")
    monkeypatch.setattr(hub, "PLACE", f"{tmp_path}/hub/{{repository}}/{{config}}/{{split}}/*.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name, split", LINES, ids=map("-".join, LINES))
def test_the_hubs_rows_are_the_records_of_a_folder(name, split, hub_on_disk, tmp_path):
    file = {"validation": "dev"}.get(split, split)
    (tmp_path / name).mkdir()
    lines = "".join(json.dumps(line) + "\n" for line in LINES[name, split])
    (tmp_path / name / f"{file}.jsonl").write_text(lines, encoding="utf-8")
    found = load_task(name, None, split)
    assert found == load_task(name, tmp_path, split) != []
    assert all(record.place.startswith(f"{hub.HUB[name].repository}, ") for record in found)


def test_the_whole_test_split_has_each_input_once(hub_on_disk):
    unseen, seen = load_task("webnlg", None, "test_unseen"), load_task("webnlg", None, "test_seen")
    assert load_task("webnlg", None, "test") == unseen + seen
    assert seen == [Record(' | Aarhus_Airport : cityServed : "Aarhus | Denmark" | Aarhus : leader : J.', ("It.",))]


def test_rows_of_another_kind_are_named(hub_on_disk, monkeypatch):
    other = hub.HUB["dart"].repository, hub.HUB["dart"].config, hub._e2e
    monkeypatch.setitem(hub.HUB, "e2e", hub.HubTask(*other))
    with pytest.raises(
        ValueError, match=r"Yale-LILY/dart, train, row 0: expected other columns \(KeyError\('meaning_r"
    ):
        load_task("e2e", None, "train")
    monkeypatch.setitem(ROWS["xsum"]["test"][0], "summary", " ")
    with pytest.raises(ValueError, match=r"^here: 'summary' must be a string that is not blank, got ' '"):
        hub._read(TASKS["xsum"], ROWS["xsum"]["test"][0] | {"place": "here"})


def test_without_a_network_or_the_library_the_way_out_is_said(hub_on_disk, monkeypatch, capsys, tmp_path):
    with pytest.raises(
        OSError, match=r"task 'xsum' cannot be loaded from the Hub \(.*\): .*\. Give --data-dir with a copy"
    ):
        load_task("xsum", None, "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install prefix-peft\[hub\], or give --data-dir"):
        load_task("xsum", None, "test")
    monkeypatch.setattr("prefix_peft.commands.arguments.find_spec", lambda name: None)
    assert main(["train", "--model", "m", "--task", "xsum", "--output-dir", str(tmp_path)]) == 2
    assert (
        "--task xsum without --data-dir is loaded from the Hub: pip install prefix-peft[hub]" in capsys.readouterr().err
    )


def test_nothing_but_parquet_is_asked_for(monkeypatch):
    """So nothing that lies beside it can run."""
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda kind, **given: asked.append((kind, given)) or [])
    for name in hub.HUB:
        assert load_task(name, None, "validation") == []
    places = [given.pop("data_files") for _, given in asked]
    assert all(re.fullmatch(r"hf://datasets/[^@/]+/[^@/]+@refs/convert/parquet/.*\.parquet", place) for place in places)
    assert places[0].endswith("webnlg-challenge/web_nlg@refs/convert/parquet/webnlg_challenge_2017/dev/*.parquet")
    assert {(kind, *given) for kind, given in asked} == {("parquet", "split")}


def test_a_prefix_is_trained_on_a_task_of_the_hub(folder, hub_on_disk, tmp_path):  # noqa: F811
    given = [
        "--model",
        str(folder / "gpt2"),
        "--task",
        "webnlg",
        "--output-dir",
        str(tmp_path / "o"),
        "--max-steps",
        "1",
    ]
    assert main(["train", *given, "--num-virtual-tokens", "2"]) == 0
    assert "webnlg, 4 pairs" in (tmp_path / "o" / "README.md").read_text()
