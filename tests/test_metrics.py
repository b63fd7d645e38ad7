import json
import math
import os
import sys
from pathlib import Path

import pytest

from prefix_peft.training.metrics import score, signatures


@pytest.fixture
def fixtures() -> Path:
    """Outputs of a BART model with scores by the programs of the WebNLG and DART evaluations."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PREFIX_PEFT_DATA", default)) / "metric_fixtures"
    if not folder.is_dir():
        pytest.skip("needs scored outputs: set PREFIX_PEFT_DATA to the folder that holds metric_fixtures/")
    return folder


def test_bleu_by_hand():
    # Matches of 1- to 4-grams 4/5 3/4 2/3 1/2; six words to match with five: brevity penalty exp(1 - 6/5).
    scores = score(["a b c d x"], [["a b c d e f"]])
    assert scores["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_chrf_by_hand():
    # Character 1-grams: both 2 of 3; 2-grams: 1 of 2; 3-grams: 0 of 1. Longer ones do not occur and do not count.
    assert score(["abx"], [["aby"]])["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_any_reference_counts_whatever_its_place():
    right, wrong = "the pub is near the river", "a hotel in some town far away"
    for references in ([right, wrong], [wrong, right]):
        assert score([right], [references]) == pytest.approx({"bleu": 100, "chrf": 100})


def test_a_missing_reference_is_left_out_and_not_an_empty_one():
    # Were the second input's missing reference an empty text, its length 0 would be nearer to 1 than 7 is, and there
    # would be no brevity penalty.
    predictions, short = ["a b c d e", "g"], ["f g h i j k l"]
    alone = score(predictions, [["a b c d e"], short])
    assert score(predictions, [["a b c d e", "a b c d e"], short]) == pytest.approx(alone)
    assert score(predictions, [["a b c d e"], [*short, ""]])["bleu"] > 1.5 * alone["bleu"]


def test_references_stay_with_their_input():
    texts = ["the pub is near the river", "a hotel in some town far away", "cheap food for all of us"]
    references = [["something else altogether here", texts[0]], [texts[1]], ["x", "y", texts[2]]]
    assert score(texts, references) == pytest.approx({"bleu": 100, "chrf": 100})
    assert score(texts, references[::-1])["bleu"] < 50


def test_signatures_say_how_the_scores_were_made():
    import sacrebleu

    version = f"version:{sacrebleu.__version__}"
    assert signatures([["a"], ["b"]])["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert signatures([["a", "b"], ["c"]])["chrf"] == f"nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"
    assert set(signatures([["a"]])) == set(score(["a"], [["a"]]))


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ([], [], "nothing to score; give at least one prediction and its references"),
        (["a"], [["a"], ["b"]], "1 predictions for 2 lists of references; give one each"),
        (["a", "b"], [["a"], []], r"references\[1\] must be a list of strings, not empty, got \[\]"),
        (["a"], ["a b"], r"references\[0\] must be a list of strings, not empty, got 'a b'"),
        (["a"], [["a", None]], r"references\[0\] must be a list of strings, not empty, got \['a', None\]"),
    ],
)
def test_lists_that_do_not_fit_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        score(predictions, references)


def test_without_sacrebleu_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"scores need sacrebleu; pip install prefix-peft\[metrics\]"):
        score(["a"], [["a"]])


@pytest.mark.parametrize("name", ["webnlg_bart_large", "dart_bart_large"])
def test_bleu_of_real_outputs_equals_multi_bleu_perl(fixtures, name):
    rows = [json.loads(line) for line in (fixtures / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    official = json.loads((fixtures / "expected.json").read_text())[f"{name}.subset"]["multi_bleu_perl"]
    # The official score reads reference files padded with empty lines, and counts those as references.
    most = max(len(row["references"]) for row in rows)
    references = [row["references"] + [""] * (most - len(row["references"])) for row in rows]
    assert score([row["prediction"] for row in rows], references)["bleu"] == pytest.approx(official, abs=0.01)
