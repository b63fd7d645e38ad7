"""Data files that nobody has looked at: what is odd is said before training starts, what cannot be read is named."""

import json
import re
import tracemalloc

import pytest
import tiny
import torch
from test_batches import build as build_tokenizer
from test_training import folder, options  # noqa: F401  (a fixture)

from prefix_peft.__main__ import main
from prefix_peft.commands.models import load_base
from prefix_peft.data import lines
from prefix_peft.data.batches import encode_pairs
from prefix_peft.data.pairs import load_data, report
from prefix_peft.data.records import Record
from prefix_peft.data.tasks import read_jsonl
from prefix_peft.training.samples import read_lines, read_samples

WORDS = ["name", "type", "pub", "shop", "near", "café", "mill", "price"]


def write(path, *objects):
    path.write_text("".join(json.dumps(value) + "\n" for value in objects), encoding="utf-8")
    return path


def long_pairs():
    """Pairs of 2 to 400 words."""
    return [(" ".join(WORDS[i % 8] for i in range(n)), " ".join(WORDS[-1 - i % 8] for i in range(n // 16 + 1)))
            for n in (2, 400, 7, 31, 30)]  # fmt: skip


@pytest.mark.parametrize(
    "data, message",
    [
        ('{"source": "a", "target": "b"}\n'.encode("utf-16"), "line 1: expected UTF-8 text, got UTF-16"),
        (
            '{"source": "a", "target": "b"}\n{"source": "é", "target": "b"}\n'.encode("latin-1"),
            "line 2: expected UTF-8",
        ),
        ("{}\n".encode("utf-16-le"), "line 1: expected JSON"),
        (b'{"source": ' + b"[" * 100_000, "line 1: expected JSON.*recursion"),
        (b'\n{"source": 1' + b"0" * 5000 + b"}", "line 2: expected JSON"),
        (b"\xef\xbb\xbf\n \xe2\x80\x83\n", "has no line to read"),
        (b"", "has no line to read"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(data, message, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        read_jsonl(path)


def test_a_huge_line_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(40 * lines.LONGEST)  # a file with one hole of 640 MiB
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1 is longer than 16,777,216 bytes"):
        read_jsonl(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * lines.LONGEST
    tracemalloc.stop()


def test_texts_and_samples_name_the_line_too(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\u2028two\r\n\nthree".encode())
    assert read_lines(path) == ["one\u2028two", "three"]
    path.write_bytes(b"one\n\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt, line 2: expected UTF-8"):
        read_lines(path)
    for line in ({"prompt": [1], "written": ["x"]}, {"prompt": []}, {"prompt": [1], "written": [-1]}):
        with pytest.raises(ValueError, match=r"line 2: '(prompt|written)' must be a list of token ids"):
            read_samples(write(path, {"prompt": [1], "written": [2]}, line))


def test_copies_contested_ids_and_overlap_are_counted():
    train = [
        Record("a", ("x", "y"), 1, "t:1"), Record("a", ("y",), 2, "t:2"), Record("b", ("x",), 1, "t:3"),
        Record("c", ("z", "z"), None, "t:4"), Record("d", ("z",), 5, "t:5"),
        Record("e", ("w",), 7, "t:6"), Record("e", ("w",), 7, "t:7"),
    ]  # fmt: skip
    held_out = [Record("a", ("q",), None, "v:1"), Record("b", ("x",), 9, "v:2"), Record("n", ("x",), 5, "v:3")]
    assert report(train, held_out) == [
        "3 training pairs are copies of others: t:1 = t:2; t:4 = t:4; t:6 = t:7.",
        "2 ids stand for different records: t:1 = t:3; t:5 = v:3.",
        "2 of 3 validation sources are trained on (1 with the same target), so the validation loss says less: "
        "v:1 = t:1; v:2 = t:3.",
    ]
    assert report([Record(str(i), ("x",), i) for i in range(9)], [Record("n", ("x",))]) == []
    many = report([Record("a", ("x",), None, f"t:{i}") for i in range(9)])
    assert many == ["8 training pairs are copies of others: t:0 = t:1 = t:2."]


def test_places_and_ids_come_from_the_file(tmp_path):
    path = write(tmp_path / "a.jsonl", {"source": "a", "target": "b", "id": "k"}, {"source": "c", "references": ["d"]})
    assert [(record.id, record.place) for record in read_jsonl(path)] == [("k", "a.jsonl:1"), (None, "a.jsonl:2")]
    write(path, {"source": "a", "target": "b", "id": ["no", "key"]})
    assert read_jsonl(path)[0].id is None


@pytest.mark.parametrize("base", ["gpt2", "bart"])
def test_pairs_that_are_too_long_are_cut_dropped_or_refused(base):
    tokenizer = build_tokenizer(base, **({"pad_token": "<pad>"} if base == "bart" else {}))
    tokenizer.model_max_length = 10**9
    seq2seq, pairs = base == "bart", long_pairs()
    whole = encode_pairs(pairs, tokenizer, is_encoder_decoder=seq2seq)
    sizes = [max(len(e["input_ids"]), len(e["labels"])) for e in whole.examples]
    assert (whole.truncated, whole.longest) == (0, max(sizes))
    tokenizer.model_max_length = limit = sorted(sizes)[2]
    cut = encode_pairs(pairs, tokenizer, is_encoder_decoder=seq2seq)
    assert (cut.truncated, cut.longest, len(cut)) == (2, max(sizes), 5)
    assert max(len(e["input_ids"]) for e in cut.examples) == limit
    dropped = encode_pairs(pairs, tokenizer, is_encoder_decoder=seq2seq, too_long="drop")
    assert dropped.truncated == 2
    assert dropped.examples == [e for e, size in zip(whole.examples, sizes, strict=True) if size <= limit]
    with pytest.raises(ValueError, match=rf"2 of 5 pairs are longer .*the longest has {max(sizes)} tokens"):
        encode_pairs(pairs, tokenizer, is_encoder_decoder=seq2seq, too_long="refuse")
    with pytest.raises(ValueError, match="1 of 1 pairs are longer"):
        encode_pairs(pairs[1:2], tokenizer, is_encoder_decoder=seq2seq, too_long="drop")


@pytest.mark.parametrize("base", ["gpt2", "bart"])
def test_everything_odd_is_said_before_training_starts(base, folder, tmp_path, capsys):  # noqa: F811
    pairs = [{"source": x, "target": y, "id": 3} for x, y in long_pairs()]
    train = write(tmp_path / "t.jsonl", *pairs, pairs[0])
    held_out = write(tmp_path / "v.jsonl", pairs[1], pairs[2])
    given = options(folder, tmp_path / "out", base, train_file=train, validation_file=held_out)
    model, tokenizer = load_base(given.model)
    limit = 96 if base == "gpt2" else tiny.BART_LIKE["max_position_embeddings"]
    encoded, validation = load_data(given, tokenizer, base == "bart")
    assert max(len(example["input_ids"]) for example in encoded.examples) <= limit
    with torch.no_grad():  # the longest can be read
        model(torch.tensor([max((e["input_ids"] for e in encoded.examples), key=len)]))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and validation.truncated == 1
    assert re.match(r"[123] training pairs are longer .* [\d,]+ tokens\); they are cut \(--too-long\)", said[0])
    assert said[2:4] == [
        "1 training pairs are copies of others: t.jsonl:1 = t.jsonl:6.",
        "1 ids stand for different records: t.jsonl:1 = t.jsonl:2 = t.jsonl:3.",
    ]
    assert said[4].startswith("2 of 2 validation sources are trained on (2 with the same target)")


def test_the_command_line_refuses_before_anything_is_written(folder, tmp_path, capsys):  # noqa: F811
    train = write(tmp_path / "t.jsonl", *({"source": x, "target": y} for x, y in long_pairs()))
    argv = ["train", "--model", str(folder / "gpt2"), "--train-file", str(train), "--output-dir", str(tmp_path / "o")]
    assert main([*argv, "--too-long", "refuse"]) == 2
    assert "pairs are longer than the model reads" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    with pytest.raises(ValueError, match=r"--too-long must be one of \['cut', 'drop', 'refuse'\], got 'keep'"):
        options(folder, tmp_path, too_long="keep")
