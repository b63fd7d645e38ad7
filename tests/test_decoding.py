"""The options of the search reach ``generate``, and those that were not given leave the model's own."""

import json

import pytest
import torch
from test_training import RECORDS, folder, prefix  # noqa: F401

from prefix_peft.__main__ import main
from prefix_peft.commands.arguments import EvaluateArguments, GenerateArguments
from prefix_peft.commands.models import load_prefix
from prefix_peft.data.batches import encode_prompts
from prefix_peft.evaluation.scoring import evaluate

SEARCHES = [
    {},
    {"length_penalty": 3.0},
    {"length_penalty": -3.0},
    {"min_new_tokens": 9},
    {"no_repeat_ngram_size": 1},
]


def by_hand(model, tokenizer, source, **search):
    """One source at a time, without padding."""
    (ids,) = encode_prompts([source], tokenizer, is_encoder_decoder=False, separator=" =>")
    written = model.generate(torch.tensor([ids]), num_beams=4, max_new_tokens=10, do_sample=False, pad_token_id=2,
                             eos_token_id=2, **search)  # fmt: skip
    return tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True).strip()


def test_evaluate_searches_as_it_is_told(folder, prefix, tmp_path):  # noqa: F811
    model, tokenizer = load_prefix(str(folder / "gpt2"), str(prefix))
    found = []
    for search in SEARCHES:
        arguments = EvaluateArguments(
            model=str(folder / "gpt2"), adapter=str(prefix), data_file=str(folder / "data.jsonl"), num_beams=4,
            max_new_tokens=10, max_samples=2, **search,
        )  # fmt: skip
        result = evaluate(arguments)
        texts = [by_hand(model, tokenizer, record["source"], **search) for record in RECORDS[:2]]
        assert result.generations["with prefix"] == texts
        assert {key: result.as_dict()["arguments"][key] for key in search} == search
        found.append(texts)
    assert len({tuple(texts) for texts in found}) >= len(SEARCHES) - 1, "each of them matters"


def test_generate_searches_as_it_is_told(folder, prefix, capsys):  # noqa: F811
    argv = ["generate", "--model", str(folder / "gpt2"), "--adapter", str(prefix), "--prompt", RECORDS[0]["source"]]
    search = ["--num-beams", "4", "--max-new-tokens", "10", "--no-repeat-ngram-size", "1"]
    assert main([*argv, *search]) == 0
    model, tokenizer = load_prefix(str(folder / "gpt2"), str(prefix))
    assert capsys.readouterr().out.splitlines()[-1] == by_hand(
        model, tokenizer, RECORDS[0]["source"], no_repeat_ngram_size=1
    )


def test_what_is_not_given_is_the_models_own(folder, prefix, tmp_path):  # noqa: F811
    """A summarizer brings a length penalty of its own along."""
    base = tmp_path / "base"
    base.mkdir()
    for file in (folder / "gpt2").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    own = json.loads((base / "generation_config.json").read_text()) | {"no_repeat_ngram_size": 1}
    (base / "generation_config.json").write_text(json.dumps(own))
    options = {"adapter": str(prefix), "data_file": str(folder / "data.jsonl"), "max_samples": 2, "max_new_tokens": 10}

    def texts(base, **search):
        return evaluate(EvaluateArguments(model=str(base), **options, **search)).generations["with prefix"]

    plain = texts(folder / "gpt2")
    assert texts(base) == texts(folder / "gpt2", no_repeat_ngram_size=1) != plain
    assert texts(base, no_repeat_ngram_size=0) == plain


@pytest.mark.parametrize(
    "search, message",
    [
        ({"num_beams": 1, "length_penalty": 0.8}, r"--length-penalty 0\.8 weighs beams; give --num-beams 2 or more"),
        ({"min_new_tokens": 11, "max_new_tokens": 10}, "--min-new-tokens 11 is more than --max-new-tokens 10; raise"),
        ({"min_new_tokens": -1}, "--min-new-tokens must be from 0 to"),
        ({"no_repeat_ngram_size": -2}, "--no-repeat-ngram-size must be from 0 to"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "--length-penalty must be from .* got nan"),
    ],
)
def test_what_no_search_can_do_is_refused(search, message):
    with pytest.raises(ValueError, match=message):
        EvaluateArguments(model="m", adapter="a", data_file="f", **search)
    with pytest.raises(ValueError, match=message):
        GenerateArguments("m", "a", prompt="p", **search)
