"""`prefix-peft score`, and metrics of others."""

import json
import re

import pytest

from prefix_peft import metrics
from prefix_peft.__main__ import main

MODULE = """
import evaluate
from datasets import Features, Value


class Same(evaluate.Metric):
    def _info(self):
        features = Features({"predictions": Value("string"), "references": Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        same = [prediction == reference for prediction, reference in zip(predictions, references)]
        return {"share": sum(same) / len(same), "which": same}
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "p.txt").write_text("a b c d\n\nx\u2028y z w\n", encoding="utf-8")
    rows = [{"references": ["a b c d", "q"]}, {"references": ["q r"], "id": 3}, {"target": "x y z w"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def module(tmp_path, monkeypatch):
    pytest.importorskip("evaluate", reason="modules need evaluate")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = tmp_path / "same.py"
    path.write_text(MODULE)
    return str(path)


def score(folder, *options):
    return main(["score", "--predictions", str(folder / "p.txt"), "--references", str(folder / "r.jsonl"), *options])


def test_prints_a_table_and_the_same_as_json(files, capsys):
    assert score(files, "--metrics", "ter", "chrf++", "--output-file", str(files / "scores.json")) == 0
    head, _, row, text = capsys.readouterr().out.splitlines()
    found = json.loads(text)
    texts, references = ["a b c d", "", "x\u2028y z w"], [["a b c d", "q"], ["q r"], ["x y z w"]]
    expected = metrics.score(texts, references, metrics=["ter", "chrf++"])
    assert found["scores"] == expected.scores and found["signatures"] == expected.signatures
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["bleu", "chrf", "ter", "chrf++"]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [f"{value:.4f}" for value in found["scores"].values()]
    assert json.loads((files / "scores.json").read_text()) == found
    assert found["scores"]["ter"] == pytest.approx(2 / (2.5 + 2 + 4))  # the empty line lacks two words


def test_says_what_is_not_available(files, capsys, monkeypatch):
    monkeypatch.setattr(metrics.java, "_program", lambda: (_ for _ in ()).throw(metrics.Unavailable("needs Java")))
    monkeypatch.setattr(metrics.java, "_jar", lambda *path: files)
    assert score(files, "--protocol", "dart") == 0
    printed = capsys.readouterr().out
    assert "Not available: meteor: needs Java.\n" in printed
    assert json.loads(printed.splitlines()[-1])["unavailable"] == {"meteor": "needs Java"}


def test_a_module_of_the_users_own(files, module, capsys):
    (files / "r.jsonl").write_text('{"target": "a b c d"}\n{"target": "q"}\n{"target": "x y z w"}\n')
    assert score(files, "--metrics", module) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["same share"] == pytest.approx(1 / 3)


def test_a_module_for_one_reference_gets_no_more(files, module, capsys):
    assert score(files, "--metrics", module) == 2
    assert "takes one reference to each input, and some inputs have several" in capsys.readouterr().err


def test_our_metrics_as_modules(tmp_path):
    pytest.importorskip("evaluate", reason="modules need evaluate")
    from prefix_peft.metrics import modules

    predictions, references = ["a b c d", "x"], [["a b c d", "q"], ["x y"]]
    for kind in (modules.Bleu, modules.Chrf, modules.Nist, modules.Ter):
        name = kind.__name__.lower()
        module = kind(cache_dir=str(tmp_path))
        assert module.compute(predictions=predictions, references=references) == {
            name: metrics.FUNCTIONS[name](predictions, references)
        }
    twice = modules.Chrf(cache_dir=str(tmp_path)).compute(predictions=["ab c"], references=[["ab d"]], word_order=2)
    assert twice["chrf"] == metrics.FUNCTIONS["chrf++"](["ab c"], [["ab d"]])
    pytest.importorskip("rouge_score", reason="ROUGE of summaries comes from rouge_score")
    found = modules.Rouge(cache_dir=str(tmp_path)).compute(predictions=predictions, references=references)
    assert set(found) == {"rouge1", "rouge2", "rougeL"}


@pytest.mark.parametrize(
    "predictions, references, options, message",
    [
        (
            "a\n",
            '{"references": ["a"]}\n' * 2,
            [],
            "p.txt has 1 lines and .*r.jsonl 2; the predictions need one",
        ),
        ("", '{"references": ["a"]}\n', [], "p.txt has no text; expected one prediction a line"),
        ("\n \n", '{"references": ["a"]}\n' * 2, [], "p.txt has no text; expected one prediction a line"),
        ("a\n", "", [], "r.jsonl has no line to read"),
        ("a\n", '{"references": []}\n', [], r"r.jsonl, line 1: 'references' must be a list of strings, not empty"),
        ("a\n", '{"reference": "a"}\n', [], r"line 1: expected one of 'target' and 'references', got the fields"),
        ("a\n", '{"references": ["a"]}\n', ["--metrics", "bleu"], r"'plain' already scores \['bleu'\]; leave them out"),
        ("a\n", '{"references": ["a"]}\n', ["--output-file", "."], "--output-file . is a directory; name a file"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, predictions, references, options, message):
    (tmp_path / "p.txt").write_text(predictions)
    (tmp_path / "r.jsonl").write_text(references)
    assert score(tmp_path, *options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_texts_that_are_no_utf8_are_refused(files, capsys):
    (files / "p.txt").write_bytes(b"a\n\xff\nb\n")
    assert score(files) == 2
    assert "p.txt: expected UTF-8 text" in capsys.readouterr().err


def test_an_unknown_metric_is_refused(files, capsys, monkeypatch):
    evaluate = pytest.importorskip("evaluate", reason="modules need evaluate")
    monkeypatch.setattr(evaluate, "load", lambda name: (_ for _ in ()).throw(FileNotFoundError("no such module")))
    assert score(files, "--metrics", "bluer") == 2
    assert "unknown metric 'bluer'; choose from ['bleu', 'chrf'" in capsys.readouterr().err
