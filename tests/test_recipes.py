"""The paper's hyperparameters: they are real options, they give way to what the user says, and each has a source."""

import json
import re

import pytest
from test_training import folder  # noqa: F401

from prefix_peft.__main__ import _parser, main
from prefix_peft.commands.arguments import EvaluateArguments, TrainArguments
from prefix_peft.commands.recipe_command import add_recipe
from prefix_peft.commands.recipes import RECIPES, find

PREFIXES = [name for name, recipe in RECIPES.items() if recipe.method == "prefix"]


def flat(table):
    values = [item for source in table.values() for item in source.items()]
    assert len(dict(values)) == len(values), "one source for each"
    return dict(values)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_options_that_there_are(name):
    recipe = find(name)
    assert recipe.name == name and all(source.strip() for source in (*recipe.training, *recipe.decoding))
    data = {"data_dir": "d"} if "task" in flat(recipe.decoding) else {"data_file": "f"}
    found = EvaluateArguments(adapter="a", **data, **flat(recipe.decoding))
    assert (found.num_beams, found.length_penalty) in [(5, None), (6, 0.8), (6, 1.0)]
    if name in PREFIXES:
        data = {"data_dir": "d"} if "task" in flat(recipe.training) else {"train_file": "f"}
        assert TrainArguments(output_dir="o", **data, **flat(recipe.options("train"))).prefix_projection


def test_the_figures_are_those_of_the_paper():
    """Of Table 6, as sentences: learning rate, epochs, batch, prefix."""
    names = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "num_virtual_tokens")
    for name, row in {
        "e2e/gpt2-medium": (8e-5, 5, 10, 5), "webnlg/gpt2-large": (5e-5, 5, 5, 5),
        "dart/gpt2-medium": (5e-5, 10, 5, 10),
        "xsum/bart-large": (5e-5, 30, 14, 100), "news-to-sports/bart-large": (5e-5, 15, 36, 40),
        "within-news/bart-large": (5e-5, 30, 36, 80), "xsum/bart-large/code": (5e-5, 30, 16, 200),
        "webnlg/gpt2-medium/adapter-0.1%": (5e-5, 10, 5, None), "dart/gpt2-large/fine-tuning": (1e-5, 10, 6, None),
        "webnlg/gpt2-medium/ft-top2": (5e-5, 10, 9, None), "e2e/gpt2-medium/low-500": (5e-5, None, 10, 6),
        "xsum/bart-large/low-50": (5e-5, 30, 5, 1),
    }.items():  # fmt: skip
        values = flat(RECIPES[name].training)
        assert tuple(values.get(key) for key in names) == row, name
    assert {flat(RECIPES[name].training)["encoder_hidden_size"] for name in PREFIXES if "bart" in name} == {800}
    assert {flat(RECIPES[name].training)["objective"] for name in PREFIXES if "gpt2" in name} == {"sentence_sum"}
    released = {name: 24 * 2 * 1024 * flat(RECIPES[name].training)["num_virtual_tokens"] for name in PREFIXES}
    assert released["webnlg/gpt2-medium"] == 245_760 and released["dart/gpt2-medium"] == 491_520, "250 K and 500 K"
    assert flat(RECIPES["e2e/gpt2-medium/low-500"].training)["warmup_ratio"] == 100 / 400
    assert flat(RECIPES["xsum/bart-large/low-100"].training)["warmup_ratio"] == 100 / (20 * 100 / 5)


def parsed(command, *argv):
    parser = _parser(command)
    add_recipe(parser, _parser(command), command, argv)
    return parser.parse_args_into_dataclasses(list(argv))[0]


def test_what_the_user_gives_wins_and_the_rest_is_said(capsys):
    given = ["--num-train-ep", "2", "--prefix-projection", "False", "--data-dir", "d", "--output-dir", "o"]
    found = parsed("train", "--recipe", "webnlg/gpt2-medium", *given)
    assert (found.model, found.task, found.num_virtual_tokens, found.learning_rate) == (
        "gpt2-medium",
        "webnlg",
        5,
        5e-5,
    )
    assert (found.num_train_epochs, found.prefix_projection, found.seed) == (2.0, False, 101)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("recipe webnlg/gpt2-medium: --model gpt2-medium --task webnlg ")
    assert "--learning-rate 5e-05" in lines[0] and "projection" not in lines[0]
    assert lines[1] == "not from it, as you say otherwise: --prefix-projection True --num-train-epochs 5"


def test_other_data_and_other_steps_take_the_place_of_the_recipes():
    own = ["--train-file", "f", "--max-steps", "7", "--output-dir", "o"]
    found = parsed("train", "--recipe", "e2e/gpt2-medium", *own)
    assert (found.task, found.train_file, found.max_steps, found.num_train_epochs) == (None, "f", 7, 3.0)
    low = parsed("train", "--recipe", "e2e/gpt2-medium/low-50", *own[:2], "--num-train-epochs", "2", *own[4:])
    assert (low.max_steps, low.num_train_epochs) == (-1, 2.0)
    found = parsed("evaluate", "--recipe", "dart/gpt2-medium", "--adapter", "a", "--data-file", "f")
    assert (found.task, found.protocol, found.num_beams) == (None, "dart", 5)


def test_a_recipe_trains_and_is_evaluated(folder, tmp_path):  # noqa: F811
    base, data = ["--model", str(folder / "gpt2")], str(folder / "data.jsonl")
    short = ["--max-steps", "1", "--save-steps", "1", "--encoder-hidden-size", "8"]
    argv = ["train", "--recipe", "e2e/gpt2-medium", *base, "--train-file", data, "--output-dir", str(tmp_path), *short]
    assert main(argv) == 0
    kept = json.loads((tmp_path / "checkpoint-1" / "training_state.json").read_text())["arguments"]
    wanted = flat(RECIPES["e2e/gpt2-medium"].training)
    mine = {"model", "task", "num_train_epochs", "encoder_hidden_size"}
    assert {key: kept[key] for key in wanted if key not in mine} == {k: v for k, v in wanted.items() if k not in mine}
    scored = ["--adapter", str(tmp_path), "--data-file", data, "--output-file", str(tmp_path / "scores.json")]
    more = ["--max-new-tokens", "5", "--max-samples", "1", "--protocol", "plain"]
    assert main(["evaluate", "--recipe", "e2e/gpt2-medium/fine-tuning", *base, *scored, *more]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["arguments"]["num_beams"] == 5


@pytest.mark.parametrize(
    "argv, message",
    [
        (["recipes", "webnlg/gpt2"], r"recipes: unknown recipe 'webnlg/gpt2'; did you mean 'webnlg/gpt2-\w+' or "),
        (["train", "--recipe", "qqq"], "unknown recipe 'qqq'; did you mean another"),
        (
            ["train", "--recipe", "dart/gpt2-medium/ft-top2"],
            "'dart/gpt2-medium/ft-top2' is of ft-top2, to compare with; train a prefix: 'dart/gpt2-medium'",
        ),
    ],
)  # fmt: skip
def test_unknown_recipes_and_those_of_other_methods_are_refused(argv, message, capsys):
    assert main(argv) == 2
    assert re.search(message, capsys.readouterr().err)


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert re.findall(r"^\| (\S+/\S+) ", listed, re.MULTILINE) == list(RECIPES)
    assert main(["recipes", "xsum/bart-large/low-50"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--learning-rate 5e-05 +\| Li & Liang \(ACL 2021\), appendix, low data", shown)
    assert "--length-penalty 0.8" in shown and "draw 50 records, and give them as --train-file." in shown


def test_help_shows_what_a_recipe_sets(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "dart/gpt2-medium", "--help"])
    assert re.search(r"the length of the\s+prefix\. \(default:\s+10\)", capsys.readouterr().out)
