import gzip
import json
import os
import re
from pathlib import Path

import pytest

from prefix_peft.data.records import Record
from prefix_peft.data.tasks import TASKS, load_task, read_jsonl, training_pairs

TRIPLES = [["Aarhus_Airport", "cityServed", '"Aarhus, Denmark"'], ["Aarhus", "LOCATION", "Denmark"]]


@pytest.fixture
def data() -> Path:
    """The folder that holds webnlg/, e2e/ and the others; see the docstring of load_task."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PREFIX_PEFT_DATA", default))
    if not (folder / "webnlg").is_dir():
        pytest.skip("needs the data sets: set PREFIX_PEFT_DATA to the folder that holds webnlg/, e2e/, dart/, scitldr/")
    return folder


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_reads_a_target_or_several_references(tmp_path):
    path = write(
        tmp_path / "a.jsonl", {"source": "a", "target": "b", "id": 7}, {"source": "c", "references": ["d", "e"]}
    )
    assert read_jsonl(path) == [Record("a", ("b",)), Record("c", ("d", "e"))]
    assert read_jsonl(str(path)) == read_jsonl(path)


def test_a_line_ends_at_a_newline_only_and_may_be_blank_or_marked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"source": "a\u2028b\x85", "target": "ü"}\r\n\r\n{"source": "c", "target": "d"}'.encode())
    assert read_jsonl(path) == [Record("a\u2028b\x85", ("ü",)), Record("c", ("d",))]


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"source": "a", ', r"expected JSON, got '{\"source\": \"a\", ' \(Expecting property name"),
        (b'["a", "b"]', r"expected a JSON object, got \['a', 'b'\]"),
        (b'{"source": "\xff", "target": "b"}', r"expected UTF-8 text, got b'{\"source\": \"\\xff\""),
        (b'{"target": "b"}', r"expected a field 'source', got the fields \['target'\]"),
        (b'{"source": "a"}', r"expected one of 'target' and 'references', got the fields \['source'\]"),
        (
            b'{"source": "a", "target": "b", "references": ["c"]}',
            r"got the fields \['references', 'source', 'target'\]",
        ),
        (b'{"source": "a", "references": []}', r"'references' must be a list of strings, not empty, got \[\]"),
        (b'{"source": "a", "references": "b"}', r"'references' must be a list of strings, not empty, got 'b'"),
        (b'{"source": "a", "references": ["b", 3]}', r"each of 'references' must be a string that is not blank, got 3"),
        (b'{"source": "a", "target": null}', r"'target' must be a string that is not blank, got None"),
        (b'{"source": 5, "target": "b"}', r"'source' must be a string that is not blank, got 5"),
        (b'{"source": " ", "target": "b"}', r"'source' must be a string that is not blank, got ' '"),
        (b'{"source": "a", "target": ""}', r"'target' must be a string that is not blank, got ''"),
        (b'{"source": "\\ud83d", "target": "b"}', r"'source' must be text, got half of a surrogate pair in '\\ud83d'"),
    ],
)
def test_a_faulty_line_is_named_shown_and_explained(tmp_path, line, message):
    path = tmp_path / "some.jsonl"
    path.write_bytes(b'{"source": "a", "target": "b"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 3: ") + ".*" + message):
        read_jsonl(path)


def test_a_long_value_is_shown_shortened(tmp_path):
    with pytest.raises(ValueError, match=r"x\.\.\.\.$") as caught:
        read_jsonl(write(tmp_path / "a.jsonl", ["x" * 10_000]))
    assert len(str(caught.value)) < 150 + len(str(tmp_path))


def test_an_empty_file_is_refused_and_a_missing_one_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.jsonl has no line to read; put one text or one JSON object"):
        read_jsonl(tmp_path / "empty.jsonl")
    with pytest.raises(FileNotFoundError, match=r"missing\.jsonl"):
        read_jsonl(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    "name, line, source",
    [
        (
            "webnlg",
            {"triples": TRIPLES},
            ' | Aarhus_Airport : cityServed : "Aarhus, Denmark" | Aarhus : LOCATION : Denmark',
        ),
        ("dart", {"triples": TRIPLES}, 'Aarhus_Airport : cityserved : "Aarhus, Denmark" | Aarhus : location : Denmark'),
        ("scitldr", {"title": "t", "article": "We show it."}, "We show it."),
        ("xsum", {"id": "7", "document": "It rained.\nMuch.", "summary": "one"}, "It rained.\nMuch."),
        (
            "e2e",
            {"mr": {"name": "X-Y", "eatType": "pub", "priceRange": "£20-25", "familyFriendly": "no", "near": "Z"}},
            "name : X-Y | Type : pub | price : £ 20 - 25 | family friendly : no | near : Z",
        ),
    ],
)
def test_a_task_is_written_as_in_the_papers_code(tmp_path, name, line, source):
    write(tmp_path / name / TASKS[name].splits["validation"][0], line | {"references": ["one", "two"]})
    assert load_task(name, tmp_path, "validation") == [Record(source, ("one",) if name == "xsum" else ("one", "two"))]


@pytest.mark.parametrize(
    "name, line, message",
    [
        ("webnlg", {}, "expected a field 'triples', got the fields"),
        ("webnlg", {"triples": []}, r"'triples' must be a list of \[subject, property, object\], not empty, got \[\]"),
        ("dart", {"triples": [["s", "p"]]}, r"'triples' must be .* got \[\['s', 'p'\]\]"),
        ("dart", {"triples": [["s", "p", 3]]}, r"'triples' must be .* got \[\['s', 'p', 3\]\]"),
        ("e2e", {"mr": {}}, r"'mr' must be an object of strings, not empty, got {}"),
        ("e2e", {"mr": {"name": 1}}, r"'mr' must be an object of strings, not empty, got {'name': 1}"),
        ("e2e", {"mr": "name[X]"}, r"'mr' must be an object of strings, not empty, got 'name\[X\]'"),
        ("scitldr", {"article": ""}, "'article' must be a string that is not blank, got ''"),
    ],
)
def test_a_faulty_line_of_a_task_is_named(tmp_path, name, line, message):
    path = write(tmp_path / name / "train.jsonl", line | {"references": ["one"]})
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 1: ") + message):
        load_task(name, tmp_path, "train")


def test_unknown_names_and_missing_files_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown task 'cnn'; choose from \['dart', 'e2e', 'scitldr', 'webnlg', 'xsum'\]"
    ):
        load_task("cnn", tmp_path, "train")
    with pytest.raises(
        ValueError, match=r"task 'e2e' has no split 'dev'; choose from \['test', 'train', 'validation'\]"
    ):
        load_task("e2e", tmp_path, "dev")
    missing = re.escape(
        f"no file {tmp_path / 'dart' / 'train.jsonl'}; data_dir must be the folder that holds dart/train."
    )
    with pytest.raises(FileNotFoundError, match=missing):
        load_task("dart", tmp_path, "train")


def test_every_reference_is_a_training_pair():
    records = [Record("a", ("b", "c")), Record("d", ("e",))]
    assert training_pairs(iter(records)) == [("a", "b"), ("a", "c"), ("d", "e")]


def test_tasks_are_listed_under_their_own_names():
    names = ("webnlg", "e2e", "dart", "scitldr", "xsum")
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in names}


@pytest.mark.parametrize(
    "name, split, inputs, pairs",  # published counts for train and validation; a part of the test inputs is held back
    [
        ("webnlg", "train", 6940, 18102),
        ("webnlg", "validation", 872, 2268),
        ("webnlg", "test_seen", 777, 1995),
        ("webnlg", "test_unseen", 713, 1965),
        ("webnlg", "test", 1490, 3960),
        ("e2e", "train", 4862, 42061),
        ("e2e", "validation", 547, 4672),
        ("e2e", "test", 504, 3636),
        ("dart", "validation", 2768, 6980),
        ("dart", "test", 4098, 9954),
        ("scitldr", "train", 1992, 1992),
        ("scitldr", "validation", 619, 1453),
        ("scitldr", "test", 618, 1967),
    ],
)
def test_counts_of_the_real_data(data, name, split, inputs, pairs):
    records = load_task(name, data, split)
    assert (len(records), len(training_pairs(records))) == (inputs, pairs)


@pytest.mark.parametrize(
    "split, lines", [("train", "paper_src1_train.txt.gz"), ("validation", "paper_src1_valid.txt.gz")]
)
def test_e2e_inputs_are_those_of_the_papers_own_training_file(data, split, lines):
    with gzip.open(data / "e2e" / lines, "rt", encoding="utf-8") as file:
        papers = {line.split("||")[0] for line in file}
    assert {record.source for record in load_task("e2e", data, split)} == papers
