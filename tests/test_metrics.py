import json
import math
import os
import sys
from pathlib import Path

import pytest

from prefix_peft import metrics
from prefix_peft.metrics import Unavailable, java, lacking, nist, rouge, signatures, summaries
from prefix_peft.metrics.protocols import as_dart, as_webnlg


def score(predictions, references):
    return metrics.score(predictions, references).scores


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def unidecode():
    return pytest.importorskip("unidecode", reason="WebNLG's script needs Unidecode")


needs_java = pytest.mark.skipif(java.lacking() is not None, reason=f"METEOR {java.lacking()}")


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


@pytest.mark.parametrize("predictions", ["ab", ["a", None]])
def test_predictions_that_are_no_texts_are_refused(predictions):
    with pytest.raises(ValueError, match="predictions must be a list of strings, got "):
        score(predictions, [["a"], ["b"]])


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match=r"unknown protocol 'wmt'; choose from \['dart', 'e2e', 'plain', 'summary'"):
        metrics.score(["a"], [["a"]], "wmt")


def test_nist_by_hand():
    # Each of two words says log2(2 / 1); the pair says no more than its first word did.
    assert nist(["a b"], [["a b"]]) == pytest.approx(1)
    # Three words, and a system of two thirds of that length is worth half.
    assert nist(["a b"], [["a b c"]]) == pytest.approx(math.log2(3) / 2)
    # Matches of either reference count: of four words a and b are there once, so each says log2(4).
    assert nist(["a b"], [["a c", "b c"]]) == pytest.approx(2)
    # One of two words is matched, once, as no reference has it twice; it is two of four words, so it says log2(2).
    assert nist(["a a"], [["a b", "a c"]]) == pytest.approx(1 / 2)
    assert nist([""], [["a"]]) == nist(["a"], [[""]]) == 0


def test_rouge_by_hand():
    pytest.importorskip("rouge_score", reason="ROUGE of summaries comes from rouge_score")
    # "cats" and "cat" have one stem. 1-grams: 2 of 3 and 2 of 2, so F1 = 0.8; 2-grams: 0; the best of two references.
    assert rouge(["the black cats"], [["cat the", "nothing"]]) == pytest.approx(
        {"rouge1": 80, "rouge2": 0, "rougeL": 40}
    )


def test_webnlg_parts_words_before_or_after_it_writes_ascii(unidecode):
    texts = ['El "Café" d\'Or,  3.5 km']
    tokens = 'el " cafe " d \' or , 3 . 5 km'
    assert as_webnlg(texts, [[*texts, "b", "c", "a fourth one"]]) == ([tokens], [[tokens, "b", "c"]])
    # A ligature for one half is three characters to part before, and one afterwards.
    assert as_webnlg(["1½"], [["1½"]]) == (["1 1 / 2"], [["1 1/2"]])


def test_dart_keeps_accents_and_what_is_tokenised():
    (text,), ((reference, *_),) = as_dart(["İzmir's café"], [["i̇zmir ' s café", "b", "c", "d"]])
    assert text == reference == "i̇zmir ' s café"


def test_missing_references_count_as_empty_lines_for_dart(no_java):
    # Of "g", an empty line is nearer in length than seven words are, so there is no brevity penalty; all 1- to 4-grams
    # of the first input match, and of the second input's word none.
    predictions, references = ["a b c d e", "g"], [["a b c d e", "x"], ["f g h i j k l"]]
    scores = metrics.score(predictions, references, "dart").scores
    assert scores["bleu"] == pytest.approx(100 * (6 / 6) ** 0.25)
    assert score(predictions, references)["bleu"] == pytest.approx(100 * math.exp(1 - 12 / 6))


def test_further_metrics_read_the_text_as_it_is(no_java):
    scores = metrics.score(["ABC D E F"], [["abc d e f"]], "dart", ["chrf"]).scores
    assert scores["bleu"] == pytest.approx(100) and scores["chrf"] == 0


def test_e2e_reads_text_as_mteval_does(no_java):
    scores = metrics.score(["Cheap, at 3.50!"], [["cheap , at 3.50 !"]], "e2e").scores
    assert scores["bleu"] == pytest.approx(100)
    assert scores["nist"] == pytest.approx(math.log2(5))


def test_a_summary_is_judged_by_its_best_reference():
    pytest.importorskip("rouge_score", reason="ROUGE of summaries comes from rouge_score")
    scores = metrics.score(["a b", "c"], [["x", "a b"], ["c"]], "summary").scores
    assert scores == pytest.approx({"rouge1": 100, "rouge2": 50, "rougeL": 100})


def test_coco_by_hand():
    pytest.importorskip("pycocoevalcap", reason="ROUGE-L and CIDEr come from pycocoevalcap")
    # Longest common subsequences: 2 of 4 words and 2 of 2, and F with beta 1.2 of the best precision and recall.
    precision, recall, beta = 2 / 4, 1.0, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert metrics.rouge_l(["a x b y"], [["a b", "q r s"]]) == pytest.approx(expected)
    # Equal texts of four words: cosine 1 for each length of n-grams, times ten.
    texts = ["a b c d", "e f g h"]
    assert metrics.cider(texts, [[text] for text in texts]) == pytest.approx(10)
    assert metrics.cider(texts, [[text] for text in texts[::-1]]) == pytest.approx(0)


@needs_java
def test_e2e_scores_treebank_tokens():
    predictions = ["It's Cheap (very)!", "Near the river, £5."]
    references = [["it 's cheap -lrb- very -rrb-"], ["NEAR the river # 5"]]
    assert java.treebank_tokens(predictions) == [references[0][0], "near the river # 5"]
    scores = metrics.score(predictions, references, "e2e").scores
    assert scores["rouge_l"] == pytest.approx(1) and scores["cider"] == pytest.approx(10)
    assert scores["meteor"] > 0.5


@pytest.mark.parametrize("protocol, names", [("dart", ["meteor"]), ("e2e", ["meteor", "rouge_l", "cider"])])
def test_without_java_the_others_are_computed(no_java, protocol, names):
    reason = "needs Java; there is no java on the PATH"
    if java.find_spec("pycocoevalcap") is None:
        reason = "needs pycocoevalcap, which brings METEOR; pip install prefix-peft[official]"
    report = metrics.score(["a b c d"], [["a b c d"]], protocol)
    assert report.unavailable == dict.fromkeys(names, reason)
    assert report.scores["bleu"] == pytest.approx(100) and not set(names) & set(report.scores)
    assert set(lacking(protocol)) == set(names)


def test_without_unidecode_webnlg_is_refused_before_anything_is_generated(monkeypatch):
    monkeypatch.setitem(sys.modules, "unidecode", None)
    with pytest.raises(ImportError, match=r"in ASCII by Unidecode; pip install prefix-peft\[official\]"):
        signatures([["a"]], "webnlg")


@pytest.mark.parametrize("package, function", [("rouge_score", rouge), ("pycocoevalcap", metrics.rouge_l)])
def test_without_its_package_a_score_is_unavailable(monkeypatch, package, function):
    for name in [package, f"{package}.rouge_scorer", f"{package}.rouge.rouge"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(summaries, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=rf"needs {package}; pip install prefix-peft\[(metrics|official)\]"):
        function(["a"], [["a"]])


def test_a_java_that_fails_is_reported(monkeypatch, tmp_path):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(java, "_jar", lambda *path: tmp_path)
    with pytest.raises(Unavailable, match="java ended with status 3: no memory"):
        metrics.meteor(["a"], [["a"]])


@pytest.mark.parametrize("name, protocol", [("webnlg_bart_large", "webnlg"), ("dart_bart_large", "dart")])
def test_real_outputs_score_what_the_official_programs_print(fixtures, name, protocol):
    if protocol == "webnlg":
        pytest.importorskip("unidecode", reason="WebNLG's script needs Unidecode")
    rows = [json.loads(line) for line in (fixtures / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    official = json.loads((fixtures / "expected.json").read_text())[f"{name}.subset"]
    assert len(rows) == official["segments"]
    report = metrics.score([row["prediction"] for row in rows], [row["references"] for row in rows], protocol)
    # To the last digit that is given.
    assert round(report.scores["bleu"], 2) == official["multi_bleu_perl"]
    assert round(report.scores["ter"], 6) == official["tercom_0_7_25"]
    if "meteor" in report.unavailable:
        pytest.skip(f"BLEU and TER are equal; METEOR {report.unavailable['meteor']}")
    assert round(report.scores["meteor"], 5) == official["meteor_1_5"]
