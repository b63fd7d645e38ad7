"""Distillation: the teacher is the model that reads the document, and a short prefix comes near it."""

import json
import math
import shutil

import peft
import pytest
import reference
import tiny
import torch
from safetensors.torch import load_file
from test_training import equal, folder, released  # noqa: F401

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.commands.arguments import DistillArguments
from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import collate
from prefix_peft.demo.records import pretraining_texts
from prefix_peft.demo.run import BASE
from prefix_peft.training.distillation import TEACHER, compare, distill, divergence, with_document
from prefix_peft.training.samples import continued, encoded, prompts_for, read_samples

DOCUMENT = "The Vaults is a pub near Café Rouge. It is cheap, and families go there. The Mill is a shop."


def options(folder, output, **more):  # noqa: F811
    given = {
        "model": folder / "gpt2", "document_file": output / "document.txt", "output_dir": output / "run",
        "num_virtual_tokens": 3, "num_samples": 6, "num_validation_samples": 3, "prompt_length": 2,
        "max_new_tokens": 5, "max_steps": 6, "per_device_train_batch_size": 2, "logging_steps": 1,
    } | more  # fmt: skip
    if not (output / "document.txt").exists():
        (output / "document.txt").write_text(DOCUMENT)
    return DistillArguments(**{key: str(value) if hasattr(value, "parts") else value for key, value in given.items()})


def divergence_of(ours, theirs):
    """KL(theirs || ours) of two rows of logits, in a loop."""
    p, q = theirs.double().softmax(-1), ours.double().softmax(-1)
    return sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@torch.no_grad()
def test_the_divergence_is_that_of_models_that_read_the_document_and_its_beginning(family, tmp_path):
    base, document = tiny.build(family), tiny.tokens(20, seed=7)
    texts = [(tiny.tokens(3, seed=1).tolist(), tiny.tokens(4, seed=2).tolist()), ([9], tiny.tokens(2, seed=3).tolist())]
    expected = []
    for x, y in texts:
        read = [base(torch.cat([front, torch.tensor(x + y)])[None]).logits[0] for front in (document[:5], document)]
        for t in range(-len(y) - 1, -1):
            expected.append(divergence_of(*(logits[t] for logits in read)))
    arguments = DistillArguments("model", "file", output_dir="out", num_virtual_tokens=5, num_frozen_tokens=1)
    model = with_document(base, document, arguments)
    batch = collate(encoded(texts).examples, tiny.PAD, False)
    total, count = divergence(model.train(), batch)
    assert count == 6
    assert float(total) == pytest.approx(sum(expected), abs=1e-4)
    scores = compare(model, [batch])
    assert scores["the prefix"]["KL"] == scores["the document's beginning"]["KL"] == pytest.approx(sum(expected) / 6)
    assert scores["the document"]["KL"] == 0 < scores["nothing"]["KL"]
    assert [name for name, p in model.named_parameters() if p.requires_grad and ".default." not in name] == []


@torch.no_grad()
def test_what_is_written_is_written_with_the_document_in_view():
    base, document, prompts = tiny.build("llama"), tiny.tokens(20, seed=7), [tiny.tokens(n, seed=n) for n in (2, 3, 4)]
    expected = [reference.greedy(base, torch.cat([document, x])[None], 5)[0, -5:].tolist() for x in prompts]
    model = with_document(base, document, DistillArguments("model", "file", output_dir="out", num_virtual_tokens=5))
    model.set_adapter(TEACHER)
    rows = [x.tolist() for x in prompts]
    cold = {"max_new_tokens": 5, "temperature": 1e-6, "batch_size": 2}
    assert continued(model.eval(), tiny.tokenizer(), rows, **cold) == list(zip(rows, expected, strict=True))


def test_all_words_are_drawn_as_often_as_the_model_thinks():
    """Not only the likeliest 50, which transformers takes by default."""
    base, document = tiny.build("llama"), tiny.tokens(20, seed=7)
    with torch.no_grad():
        expected = base(torch.cat([document, torch.tensor([9])])[None]).logits[0, -1].softmax(-1)
    model = with_document(base, document, DistillArguments("model", "file", output_dir="out", num_virtual_tokens=5))
    model.set_adapter(TEACHER)
    torch.manual_seed(0)
    drawn = continued(model.eval(), tiny.tokenizer(), [[9]] * 4000, max_new_tokens=1, temperature=1.0, batch_size=1000)
    share = torch.bincount(torch.tensor([y[0] for _, y in drawn]), minlength=tiny.VOCAB) / 4000
    assert len({y[0] for _, y in drawn}) > 60
    assert (share - expected).abs().max() < 4 * (expected.max() / 4000).sqrt()


def test_a_text_ends_with_the_end_of_sequence():
    samples = [([5, 6], [7, tiny.EOS]), ([5], [8, 9, 10])]
    assert encoded(samples).examples[0] == {"input_ids": [5, 6, 7, tiny.EOS], "labels": [-100, -100, 7, tiny.EOS]}
    assert prefix_peft.training.samples._up_to(tiny.EOS, [7, tiny.EOS, tiny.EOS, 4]) == [7, tiny.EOS]


@torch.no_grad()
def judged(model, read, samples):
    """KL to the base model that reads ``read`` and the texts, without any prefix; and the loss: nats per token."""
    far = loss = 0.0
    for x, y in samples:
        text, written = torch.tensor([x + y]), slice(-len(y) - 1, -1)
        with model.disable_adapter():
            teacher = model(torch.cat([read, text[0]])[None]).logits[0, written].log_softmax(-1)
        ours = model(text).logits[0, written].log_softmax(-1)
        far += float((teacher.exp() * (teacher - ours)).sum())
        loss -= float(ours.gather(1, torch.tensor(y)[:, None]).sum())
    tokens = sum(len(y) for _, y in samples)
    return {"KL": far / tokens, "loss": loss / tokens}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_distilled_prefix_beats_the_beginning_of_the_document(seed, tmp_path):
    (tmp_path / "document.txt").write_text("<|endoftext|>".join(pretraining_texts(4, seed))[:300])
    arguments = options(
        tmp_path, tmp_path, model=BASE, num_virtual_tokens=8, num_samples=64, num_validation_samples=16, seed=seed,
        max_new_tokens=16, prompt_length=8, max_steps=20, per_device_train_batch_size=8, learning_rate=0.3,
        eval_steps=1000,
    )  # fmt: skip
    scores = distill(arguments).scores
    prefix, beginning, nothing, document = (
        scores[name] for name in ("the prefix", "the document's beginning", "nothing", "the document")
    )
    base, tokenizer = load_base(str(BASE))
    model = peft.PeftModel.from_pretrained(base, tmp_path / "run").eval()
    read = torch.tensor(tokenizer((tmp_path / "document.txt").read_text())["input_ids"])
    assert prefix == pytest.approx(
        judged(model, read, read_samples(tmp_path / "run" / "samples.jsonl")[-16:]), abs=1e-3
    )
    assert prefix["KL"] < 0.5 * min(beginning["KL"], nothing["KL"])
    assert prefix["loss"] - document["loss"] < 0.5 * (min(beginning["loss"], nothing["loss"]) - document["loss"])


def test_a_resumed_run_equals_the_uninterrupted_one(folder, tmp_path, monkeypatch):  # noqa: F811
    whole = distill(options(folder, tmp_path, save_steps=3))
    after = released(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"checkpoint-3", "checkpoint-6"}
    assert not any(path.is_dir() for path in (tmp_path / "run" / "checkpoint-3").iterdir()), "the document stays out"
    samples = (tmp_path / "run" / "samples.jsonl").read_text()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    monkeypatch.setattr(prefix_peft.training.distillation, "continued", None)
    again = distill(options(folder, tmp_path, save_steps=3, resume_from_checkpoint="last"))
    assert equal(released(tmp_path / "run"), after) and again.scores == whole.scores
    assert again.progress.log == whole.progress.log and (tmp_path / "run" / "samples.jsonl").read_text() == samples


def test_prompts(folder, tmp_path):  # noqa: F811
    tokenizer = load_base(str(folder / "gpt2"))[1]
    ids = torch.tensor(tokenizer(DOCUMENT)["input_ids"])
    pieces = prompts_for(options(folder, tmp_path), tokenizer, ids)
    windows = ids.unfold(0, 2, 1).tolist()
    assert len(pieces) == 9 and all(piece in windows for piece in pieces) and len(set(map(tuple, pieces))) > 3
    (tmp_path / "prompts.txt").write_text("Is it cheap?\n\nWhere is it?\n")
    asked = prompts_for(options(folder, tmp_path, prompts_file=tmp_path / "prompts.txt"), tokenizer, ids)
    assert [tokenizer.decode(prompt) for prompt in asked] == (["Is it cheap?", "Where is it?"] * 5)[:9]


def test_the_command_line(folder, tmp_path, capsys):  # noqa: F811
    options(folder, tmp_path)
    given = ["--num-virtual-tokens", "3", "--num-samples", "4", "--num-validation-samples", "2", "--max-steps", "2"]
    given += ["--max-new-tokens", "4", "--output-dir", str(tmp_path / "run"), "--model", str(folder / "gpt2")]
    assert main(["distill", "--document-file", str(tmp_path / "document.txt"), *given]) == 0
    out, err = capsys.readouterr()
    assert "| the document's beginning |" in out and "training the prefix: 100%" in out
    assert "writing behind the document: 100%" in err
    tensors = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == 2 * 2 * 44 * 3  # layers, keys and values, width, P
    card = (tmp_path / "run" / "README.md").read_text()
    assert "4 texts written behind it" in card and "KL to the document after" in card and "2506.06266" in card
    assert json.loads((tmp_path / "run" / "prompt.json").read_text()) == {"separator": ""}
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    generate = ["generate", "--model", str(folder / "gpt2"), "--adapter", str(tmp_path / "run"), "--prompt", "It is"]
    assert main([*generate, "--max-new-tokens", "3"]) == 0
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    assert "What to turn first: more --num-samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("document", "more", "message"),
    [
        ("  \n", {}, r"document.txt is empty; give a document with text"),
        ("word " * 300, {}, r"document.txt is longer than the 96 tokens that .*gpt2 can read; cut it"),
        (DOCUMENT, {"max_new_tokens": 90}, r"and 90 new tokens make \d+, more than the 96 that"),
        ("a b", {"prompt_length": 9}, r"fewer than a piece of it: .* smaller --prompt-length than 9"),
        (DOCUMENT, {"num_virtual_tokens": 90}, r"tokens cannot become the 90 virtual tokens"),
        (DOCUMENT, {"model": "bart"}, r"bart is an encoder-decoder; a document stands before a causal model's text"),
        (DOCUMENT, {"prompts_file": "document.txt"}, r"document.txt has no line to read"),
        (DOCUMENT, {"num_frozen_tokens": 3}, r"num_frozen_tokens=3 leaves nothing to train of 3 virtual tokens"),
    ],
)
def test_what_cannot_be_distilled_is_refused(document, more, message, folder, tmp_path):  # noqa: F811
    (tmp_path / "document.txt").write_text(document)
    if "model" in more:
        more["model"] = folder / more["model"]
    if "prompts_file" in more:
        (tmp_path / "prompts").mkdir()
        more["prompts_file"] = tmp_path / "prompts" / more["prompts_file"]
        more["prompts_file"].write_text("\n \n")
    with pytest.raises(ValueError, match=message):
        distill(options(folder, tmp_path, **more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"temperature": 0.0}, "--temperature must be above 0, got 0.0"),
        ({"num_samples": 0}, "--num-samples must be at least 1, got 0"),
        ({"num_validation_samples": 0}, "--num-validation-samples must be at least 1, got 0"),
        ({"output_dir": ""}, "say where the prefix goes"),
    ],
)
def test_impossible_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        DistillArguments(**{"model": "model", "document_file": "file", "output_dir": "out"} | more)
