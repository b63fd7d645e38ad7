"""The model card: what it says, what the Hub reads of it, and whose it is."""

import re
from dataclasses import replace

import pytest
import tiny
from huggingface_hub import EvalResult, ModelCard
from test_training import folder, options  # noqa: F401

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.card.facts import Dataset, Facts, results
from prefix_peft.card.files import changed, explain_loading, new_card, write_card
from prefix_peft.card.page import samples, with_section
from prefix_peft.card.signature import is_by_hand, signed, unsigned
from prefix_peft.data.hub import dataset_of
from prefix_peft.data.tasks import TASKS

XSUM = Dataset("xsum", "EdinburghNLP/xsum", "", "summarization", "test")
FACTS = Facts(
    base_model="facebook/bart-large", task_type="SEQ_2_SEQ_LM", parameters=1_228_800, num_virtual_tokens=100,
    base_revision="abc", name="xsum-prefix", data="xsum, 7 pairs", dataset=XSUM, training={"steps": 5},
    metrics={"loss after": 1.234},
    results=results({"rouge1": 41.51239, "loss": 1.2, "none": float("nan")}, XSUM, "SEQ_2_SEQ_LM"),
    samples=[("a | b", "first\n## second ``` third")],
)  # fmt: skip


def test_the_metadata_are_the_hubs_and_come_back():
    card = ModelCard(new_card(FACTS))
    told = {"task_type": "summarization", "dataset_type": "EdinburghNLP/xsum", "dataset_name": "xsum",
            "dataset_split": "test"}  # fmt: skip
    assert card.data.eval_results == [
        EvalResult(**told, metric_type="rouge1", metric_value=41.5124),
        EvalResult(**told, metric_type="loss", metric_value=1.2),
    ]
    assert card.data.to_dict() == {
        "library_name": "peft", "pipeline_tag": "summarization", "datasets": ["EdinburghNLP/xsum"],
        "base_model": "facebook/bart-large", "base_model_relation": "adapter",
        "tags": ["prefix-tuning", "prefix-peft", "base_model:adapter:facebook/bart-large"],
        "model-index": [{"name": "xsum-prefix", "results": [{
            "task": {"type": "summarization"},
            "dataset": {"name": "xsum", "type": "EdinburghNLP/xsum", "split": "test"},
            "metrics": [{"type": "rouge1", "value": 41.5124}, {"type": "loss", "value": 1.2}],
        }]}],
    }  # fmt: skip
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_what_the_page_says():
    text = ModelCard(new_card(FACTS)).text
    rows = dict(re.findall(r"^\| ([\w' ]+) \| (.*) \|$", text, re.MULTILINE))
    assert rows.pop("made with").startswith(f"prefix-peft {prefix_peft.__version__}, peft ")
    assert rows == {
        "base model": "`facebook/bart-large`", "base model's revision": "`abc`", "task": "summarization",
        "virtual tokens": "100", "parameters": "1,228,800", "size": "4.69 MiB in float32", "data": "xsum, 7 pairs",
        "metric": "value", "loss after": "1.23", "argument": "value", "steps": "5",
    }  # fmt: skip
    assert "````text\nin   a | b\nout  first ## second ``` third\n````" in text, (
        "a sample ends no block and is no heading"
    )
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["What it is", "Results", "Training", "Samples"]


def test_what_is_not_known_is_left_out():
    text = new_card(Facts(base_model="", task_type=None, parameters=9, num_virtual_tokens=1))
    assert "base_model" not in text and "pipeline_tag" not in text and "model-index" not in text
    assert "None" not in text and "## Results" not in text and "| size | 0.0 KiB in float32 |" in text


def test_a_section_is_replaced_where_it_stands():
    text = with_section(with_section("start\n", "One", "1"), "Two", "2")
    assert text == "start\n\n## One\n\n1\n\n## Two\n\n2\n"
    assert with_section(text, "One", "new") == "start\n\n## One\n\nnew\n\n## Two\n\n2\n"
    assert samples([("a", "b"), ("c", "d")]) == "```text\nin   a\nout  b\n\nin   c\nout  d\n```"


def test_whose_a_card_is():
    text = signed("# words\n")
    assert unsigned(text) == "# words\n" == unsigned(text.replace("\n", "\r\n")) and not is_by_hand(text)
    for edited in (text.replace("words", "Words"), text + "more", "new\n" + text, "# words\n", ""):
        assert unsigned(edited) is None and is_by_hand(edited) and changed(edited, lambda card: None) is None
    assert not is_by_hand("tags:\n- generated_from_trainer\n")


def test_a_trainers_card_is_told_how_to_load(tmp_path):
    path, model = tmp_path / "README.md", prefix_peft.wrap(tiny.build("gpt2"), 2)
    for write in (model.create_or_update_model_card, lambda place: explain_loading(place, "gpt2", "CAUSAL_LM")):
        path.write_text("---\ntags:\n- generated_from_trainer\n---\n\n# Trained\n\nSteps: 3\n")
        write(tmp_path)
        text = path.read_text()
        assert "# Trained\n\nSteps: 3\n" in text and 0 < text.index("import prefix_peft") < text.index("# Trained")
        write(tmp_path)
        assert path.read_text() == text


def test_a_persons_card_stays(tmp_path):
    path, model = tmp_path / "README.md", prefix_peft.wrap(tiny.build("gpt2"), 2)
    path.write_text("# By hand\n")
    model.save_pretrained(tmp_path)
    model.create_or_update_model_card(tmp_path)
    explain_loading(tmp_path, "gpt2", "CAUSAL_LM")
    write_card(tmp_path, FACTS)
    assert path.read_text() == "# By hand\n"
    path.unlink()
    model.save_pretrained(tmp_path)
    first = path.read_text()
    prefix_peft.wrap(tiny.build("gpt2"), 3).save_pretrained(tmp_path)
    assert "| virtual tokens | 2 |" in first and "| virtual tokens | 3 |" in path.read_text(), (
        "one of ours is kept right"
    )


@pytest.mark.parametrize("family, auto, pipeline", [
    ("gpt2", "AutoPeftModelForCausalLM", "text-generation"), ("bart", "AutoPeftModelForSeq2SeqLM", "text-generation")
])  # fmt: skip
def test_saving_writes_a_card_of_the_model(family, auto, pipeline, tmp_path):
    model = prefix_peft.wrap(tiny.build(family), 3, release_dtype="bfloat16")
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == pipeline and f"{auto}.from_pretrained(" in card.text
    count = sum(parameter.numel() for parameter in tiny.prefix_parameters(model).values())
    assert (
        f"| parameters | {count:,} |" in card.text and f"| size | {count * 2 / 1024:.1f} KiB in bfloat16 |" in card.text
    )
    assert "[More Information Needed]" not in card.text


def test_an_evaluation_goes_into_the_card(folder, tmp_path, capsys):  # noqa: F811
    output, data = tmp_path / "prefix", folder / "data.jsonl"
    files = ["--model", folder / "gpt2", "--train-file", data, "--validation-file", data, "--output-dir", output]
    assert main([str(word) for word in ["train", *files, "--max-steps", 4, "--num-virtual-tokens", 3]]) == 0
    card = ModelCard.load(output / "README.md")
    (loss,) = card.data.eval_results
    assert (loss.metric_type, loss.dataset_name, loss.dataset_split) == ("validation loss", "data.jsonl", None)
    assert f"| validation loss after | {loss.metric_value:.2f} |" in card.text
    given = ["evaluate", "--model", folder / "gpt2", "--adapter", output, "--data-file", data, "--without-prefix"]
    given = [str(word) for word in [*given, "--max-samples", 2, "--num-beams", 1, "--max-new-tokens", 4, "--card"]]
    capsys.readouterr()
    assert main(given) == main(given) == 0
    table = capsys.readouterr().out.splitlines()
    card = ModelCard.load(output / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert len(card.data.eval_results) == len(measured) == 4 and measured["validation loss"] == loss.metric_value
    shown = dict(zip(table[0].split("|")[2:-1], table[3].split("|")[2:-1], strict=True))
    assert {key.strip(): float(value) for key, value in shown.items()} == {
        key: round(value, 2) for key, value in measured.items() if key != "validation loss"
    }
    assert table[3] in card.text and "On 2 records of data.jsonl, greedy search" in card.text
    assert card.text.count("\nin   name : ") == 2 and card.text.count("## Evaluation") == 1
    (output / "README.md").write_text(own := (output / "README.md").read_text().replace("greedy", "Greedy"))
    assert main(given) == 0
    assert (output / "README.md").read_text() == own and "was edited by hand and stays" in capsys.readouterr().out
    assert main([str(word) for word in ["train", *files, "--max-steps", 2, "--num-virtual-tokens", 3]]) == 0
    assert (output / "README.md").read_text() == own, "nor does training anew touch it"
    assert main([*given[:4], str(tmp_path), *given[5:]]) == 2
    assert "README.md, and there is none" in capsys.readouterr().err


def test_the_papers_data_are_known_by_name():
    webnlg = Dataset("webnlg", "webnlg-challenge/web_nlg", "cc-by-sa-3.0, cc-by-nc-sa-4.0, gfdl", "", "train")
    assert dataset_of("webnlg", "train", None) == webnlg
    assert dataset_of("xsum", "test", None) == XSUM
    assert all(dataset_of(task, "train", None).id.count("/") == 1 for task in TASKS)
    assert dataset_of(None, "train", "some/where/pairs.jsonl") == Dataset("pairs.jsonl")
    text = ModelCard(new_card(replace(FACTS, dataset=webnlg, task_type="CAUSAL_LM"))).text
    assert (
        "| licence of the data | cc-by-sa-3.0, cc-by-nc-sa-4.0, gfdl |" in text and "| task | text-generation |" in text
    )
