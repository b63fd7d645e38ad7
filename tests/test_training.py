"""The command line's training: a prefix learns, runs resume bit for bit, errors come before anything starts."""

import json
import math
import shutil
from itertools import islice

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_batches import build as build_tokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    get_linear_schedule_with_warmup,
)

import prefix_peft
from prefix_peft import metrics
from prefix_peft.__main__ import main
from prefix_peft.commands.arguments import TrainArguments
from prefix_peft.commands.models import recall_separator
from prefix_peft.data.batches import collate
from prefix_peft.evaluation.loss import mean_loss, target_loss
from prefix_peft.training.train import train

RECORDS = [
    {
        "source": f"name : {name} | Type : {kind}",
        "references": [f"{name} is a {kind} .", f"There is a {kind} , {name} ."],
    }
    for name, kind in [("Mill", "pub"), ("Vaults", "coffee shop"), ("Rouge", "pub"), ("Near", "shop"), ("Café", "pub")]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model of each kind with its tokenizer, and a data file."""
    path = tmp_path_factory.mktemp("training")
    sizes = {"vocab_size": 420, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(n_embd=44, n_layer=2, n_head=4, n_positions=96, initializer_range=0.15, **sizes)
    ).save_pretrained(path / "gpt2")
    build_tokenizer("gpt2").save_pretrained(path / "gpt2")
    bart = BartConfig(**tiny.BART_LIKE | sizes | {"decoder_start_token_id": 1})
    BartForConditionalGeneration(bart).save_pretrained(path / "bart")
    build_tokenizer("bart", pad_token="<pad>").save_pretrained(path / "bart")
    (path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def options(folder, output, base="gpt2", **more):
    given = {
        "model": folder / base, "train_file": folder / "data.jsonl", "validation_file": folder / "data.jsonl",
        "output_dir": output, "num_virtual_tokens": 3, "max_steps": 8, "per_device_train_batch_size": 2,
        "logging_steps": 1,
    } | more  # fmt: skip
    return TrainArguments(**{key: str(value) if hasattr(value, "parts") else value for key, value in given.items()})


def released(path):
    return load_file(path / "adapter_model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("base", ["gpt2", "bart"])
def test_a_prefix_learns_and_the_base_stays_bit_identical(base, folder, tmp_path):
    before = load_file(folder / base / "model.safetensors")
    trained = train(options(folder, tmp_path, base, max_steps=60, learning_rate=0.5))
    losses = [entry["validation_loss"] for entry in trained.progress.log if "validation_loss" in entry]
    assert losses[-1] < losses[0] - 1
    after = {name: p for name, p in trained.model.get_base_model().named_parameters() if "prefix_kv" not in name}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name in after)
    assert len(set(before) & set(after)) >= len(after) - 4  # tied weights lie once in the file
    assert {path.name for path in tmp_path.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "training_log.json", "prompt.json"
    }  # fmt: skip


HARD = {"prefix_projection": True, "encoder_hidden_size": 13, "prefix_dropout": 0.2, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("more", [{}, HARD, {"gate": True, "group_by_length": True}], ids=["flat", "hard", "gate"])
def test_a_resumed_run_equals_the_uninterrupted_one(more, folder, tmp_path):
    whole = train(options(folder, tmp_path / "whole", save_steps=3, **more))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    torch.manual_seed(99)
    again = train(options(folder, tmp_path / "resumed", resume_from_checkpoint="last", **more))
    assert equal(released(tmp_path / "resumed"), released(tmp_path / "whole"))
    assert again.progress.log == whole.progress.log
    assert not equal(released(tmp_path / "whole" / "checkpoint-3"), released(tmp_path / "whole"))


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.3])
def test_the_learning_rate_is_that_of_transformers(warmup_ratio, folder, tmp_path):
    log = train(options(folder, tmp_path, gate=True, warmup_ratio=warmup_ratio, learning_rate=0.07)).progress.log
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.07)
    schedule = get_linear_schedule_with_warmup(optimizer, round(8 * warmup_ratio), 8)
    wanted = []
    for _ in range(8):
        wanted.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [entry["learning_rate"] for entry in log if "learning_rate" in entry] == wanted


def test_frozen_tokens_come_from_the_checkpoint(folder, tmp_path, monkeypatch):
    """A start from the same tokens may differ in its last bits elsewhere."""
    train(options(folder, tmp_path, save_steps=3, num_frozen_tokens=1))
    before = released(tmp_path)
    monkeypatch.setattr(prefix_peft.model, "starting_tokens", lambda *_: torch.arange(9, 73))
    train(options(folder, tmp_path, resume_from_checkpoint=tmp_path / "checkpoint-3", num_frozen_tokens=1))
    assert equal(released(tmp_path), before)


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path):
    train(options(folder, tmp_path, save_steps=8))
    with pytest.raises(ValueError, match=r"other arguments: learning_rate was 0.2, is now 0.5; seed was 42, is now 7"):
        train(options(folder, tmp_path, learning_rate=0.5, seed=7, resume_from_checkpoint="last"))
    with pytest.raises(FileNotFoundError, match="nothing is no training checkpoint"):
        train(options(folder, tmp_path, resume_from_checkpoint=str(tmp_path / "nothing")))


def test_a_checkpoint_is_replaced_whole_and_a_broken_one_is_named(folder, tmp_path):
    train(options(folder, tmp_path, save_steps=8))
    train(options(folder, tmp_path, save_steps=8))
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-8"]
    state = tmp_path / "checkpoint-8" / "training_state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"training_state.safetensors is broken .* resume from an earlier one"):
        train(options(folder, tmp_path, resume_from_checkpoint="last"))


def test_accumulated_steps_equal_whole_batches(folder, tmp_path):
    one = train(options(folder, tmp_path / "one", per_device_train_batch_size=4, max_steps=3))
    two = train(options(folder, tmp_path / "two", gradient_accumulation_steps=2, max_steps=3))
    a, b = released(tmp_path / "one"), released(tmp_path / "two")
    for key, tensor in a.items():
        torch.testing.assert_close(b[key], tensor, atol=1e-5, rtol=1e-5)
    for x, y in zip(one.progress.log, two.progress.log, strict=True):
        assert x == pytest.approx(y, rel=1e-5)


def test_grouping_by_length_pads_less_and_loses_nothing(folder, tmp_path):
    from accelerate import Accelerator

    from prefix_peft.data.batches import EncodedPairs
    from prefix_peft.training.run import Run

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 90, (203,), generator=generator).tolist()
    pairs = EncodedPairs([{"input_ids": [5] * n, "labels": [5] * n} for n in lengths], 0)
    padding = {}
    for grouped in (False, True):
        trained = train(options(folder, tmp_path, max_steps=1))
        run = Run(
            options(folder, tmp_path, group_by_length=grouped, per_device_train_batch_size=4, max_steps=200),
            Accelerator(),
            trained.model, trained.tokenizer, pairs, None, target_loss,
        )  # fmt: skip
        epochs = []
        for run.progress.step in (0, 51):
            steps = list(islice(run._pairs_of_steps(), 51))
            assert [len(step) for step in steps] == [4] * 50 + [3]
            epochs.append(steps)
        assert epochs[0] != epochs[1], "each epoch has an order of its own"
        order = run._order(1)
        assert sorted(order) == list(range(203))
        assert order != run._order(2)
        batches = [[lengths[i] for i in order[start : start + 4]] for start in range(0, 203, 4)]
        padding[grouped] = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding[True] < 0.3 * padding[False]


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_loss_is_the_cross_entropy_of_the_targets(family):
    seq2seq = family == "t5"
    model = tiny.build(family)
    x, y = [5, 6, 7], [8, 9, tiny.EOS]
    examples = [{"input_ids": x, "labels": y}, {"input_ids": x[:2], "labels": y[:2]}]
    if not seq2seq:
        examples = [{"input_ids": e["input_ids"] + e["labels"], "labels": [-100] * len(e["input_ids"]) + e["labels"]}
                    for e in examples]  # fmt: skip
    total = 0.0
    for source, target in ((x, y), (x[:2], y[:2])):
        if seq2seq:
            read = torch.tensor([[tiny.PAD, *target[:-1]]])
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=read).logits[0]
        else:
            logits = model(torch.tensor([source + target])).logits[0, len(source) - 1 : -1]
        for row, token in zip(logits.double(), target, strict=True):
            total -= float(row[token]) - math.log(sum(math.exp(value) for value in row))
    loss, count = target_loss(model, collate(examples, tiny.PAD, seq2seq), seq2seq)
    assert int(count) == 5 and float(loss) == pytest.approx(total, rel=1e-5)
    batches = [collate(examples[i : i + 1], tiny.PAD, seq2seq) for i in range(2)]
    assert mean_loss(model, batches, seq2seq) == pytest.approx(total / 5, rel=1e-5)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_the_run(folder, tmp_path, monkeypatch, value):
    def diverging(model, batch, is_encoder_decoder):
        loss, count = target_loss(model, batch, is_encoder_decoder)
        return loss * float(value), count

    monkeypatch.setattr("prefix_peft.training.train.target_loss", diverging)
    with pytest.raises(FloatingPointError, match=rf"the loss is {value} at step \d+, .*; lower --learning-rate"):
        train(options(folder, tmp_path, max_steps=20))


def test_a_base_in_bfloat16_trains_a_prefix_in_float32(folder, tmp_path):
    trained = train(options(folder, tmp_path, dtype="bfloat16", max_steps=20))
    kinds = {name: p.dtype for name, p in trained.model.named_parameters()}
    assert {kinds[name] for name in kinds if "prefix_kv" not in name} == {torch.bfloat16}
    assert {kinds[name] for name in kinds if "prefix_kv" in name} == {torch.float32}
    losses = [entry["loss"] for entry in trained.progress.log if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1


def test_bf16_and_checkpointing_train(folder, tmp_path):
    trained = train(options(folder, tmp_path, mixed_precision="bf16", gradient_checkpointing=True))
    assert all(math.isfinite(entry["loss"]) for entry in trained.progress.log if "loss" in entry)
    assert {tensor.dtype for tensor in released(tmp_path).values()} == {torch.float32}


@pytest.fixture(scope="module")
def prefix(folder):
    """A prefix trained by the command itself."""
    output = folder / "prefix"
    files = ["--model", folder / "gpt2", "--train-file", folder / "data.jsonl", "--output-dir", output]
    arguments = ["train", *files, "--num-virtual-tokens", 3, "--max-steps", 40, "--learning-rate", 0.03]
    arguments += ["--separator", " =>", "--no-scale-parameter"]
    assert main([str(argument) for argument in arguments]) == 0
    return output


def test_the_train_command_writes_everything(prefix):
    assert (prefix / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    card = (prefix / "README.md").read_text()
    assert card.startswith("---\n") and "base_model: gpt2" in card and "library_name: peft" in card
    body = card.split("\n---\n", 1)[1].strip()
    assert body.startswith("This is a trained prefix of `gpt2`") and "| parameters | 528 |" in body
    assert "data.jsonl, 10 pairs" in body and str(prefix.parent) not in card


def test_the_separator_is_remembered(prefix, tmp_path):
    assert recall_separator(str(prefix), None) == " =>"
    assert recall_separator(str(prefix), " ->") == " ->"
    assert recall_separator(str(tmp_path), None) is None


def test_the_train_command_resumes(folder, tmp_path, capsys):
    files = ["--model", folder / "gpt2", "--train-file", folder / "data.jsonl", "--output-dir", tmp_path]
    argv = ["train", *files, "--num-virtual-tokens", "3", "--max-steps", "6", "--save-steps", "4"]
    argv = [str(argument) for argument in argv]
    assert main(argv) == 0
    before = released(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    assert main([*argv, "--resume-from-checkpoint"]) == 0
    assert "4/6" in capsys.readouterr().out and equal(released(tmp_path), before)


def test_generate_and_evaluate(folder, prefix, tmp_path, capsys):
    source, adapter = RECORDS[0]["source"], ["--model", str(folder / "gpt2"), "--adapter", str(prefix)]
    assert main(["generate", *adapter, "--prompt", source, "--max-new-tokens", "12"]) == 0
    written = capsys.readouterr().out.strip().splitlines()[-1]
    output = tmp_path / "scores.json"
    arguments = ["--data-file", str(folder / "data.jsonl"), "--num-beams", "1", "--max-new-tokens", "12"]
    assert main(["evaluate", *adapter, *arguments, "--without-prefix", "--output-file", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["records"][0]["with prefix"] == written
    assert result["scores"]["with prefix"]["loss"] < result["scores"]["base model"]["loss"]
    import sacrebleu

    texts = [record["with prefix"] for record in result["records"]]
    references = [[record["references"][k] for record in result["records"]] for k in range(2)]
    assert result["scores"]["with prefix"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, references).score)
    sources = tmp_path / "sources.txt"
    sources.write_text("\n".join(record["source"] for record in RECORDS))
    capsys.readouterr()
    assert main(["generate", *adapter, "--input-file", str(sources), "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out.strip("\n").splitlines()[-5:] == texts


def test_evaluate_by_a_protocol(folder, prefix, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no Java
    output = tmp_path / "scores.json"
    arguments = [
        "--model",
        folder / "gpt2",
        "--adapter",
        prefix,
        "--data-file",
        folder / "data.jsonl",
        "--num-beams",
        1,
    ]
    arguments += ["--max-new-tokens", 12, "--protocol", "dart", "--metrics", "chrf", "--output-file", output]
    assert main(["evaluate", *map(str, arguments)]) == 0
    result = json.loads(output.read_text())
    texts, references = ([record[key] for record in result["records"]] for key in ("with prefix", "references"))
    expected = metrics.score(texts, references, "dart", ["chrf"])
    assert expected.scores.items() <= result["scores"]["with prefix"].items()
    assert list(result["scores"]["with prefix"]) == ["bleu", "ter", "chrf", "loss"]
    assert result["unavailable"] == expected.unavailable and list(expected.unavailable) == ["meteor"]
    assert capsys.readouterr().out.startswith("Not available: meteor: needs ")  # before anything is generated


TRAIN = ["train", "--model", "m", "--train-file", "f", "--output-dir", "o"]
REFUSED = [
    (["fly"], "unknown command 'fly'; choose from"),
    (["train", "--model", "m", "--output-dir", "o"], "give the data once: --train-file"),
    (["train", "--model", "m", "--train-file", "f"], "say where the prefix goes: --output-dir"),
    ([*TRAIN, "--data-dir", "d"], "--data-dir d holds tasks; say which: --task NAME"),
    (["train", "--model", "m", "--train-file", "f", "--output-dir", "o", "--logging-steps", "0"], "must be at least 1"),
    (
        ["train", "--model", "m", "--train-file", "f", "--output-dir", "o", "--num-train-epochs", "0"],
        "nothing to train",
    ),
    ([*TRAIN, "--learning-rate", "nan"], "--learning-rate must be from 0 to 1000000000.0, got nan"),
    ([*TRAIN, "--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
    ([*TRAIN, "--max-source-length", "0"], "--max-source-length must be from 1"),
    (["evaluate", "--model", "m", "--data-file", "f", "--num-beams", "0"], "--num-beams must be at least 1, got 0"),
    (["evaluate", "--model", "m", "--adapter", "a"], "give the data once: --data-file"),
    (["score", "--predictions", "p"], "give both files: --predictions F.txt --references R.jsonl"),
    (["generate", "--model", "m", "--adapter", "a"], "give the source once: --prompt"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_command_lines(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_bad_data_is_named_before_training(folder, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"source": "a", "target": "b"}\n{"source": "a"}\n')
    argv = ["train", "--model", str(folder / "gpt2"), "--train-file", str(bad), "--output-dir", str(tmp_path / "o")]
    assert main(argv) == 2
    assert f"{bad}, line 2" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_help_teaches(capsys):
    assert main(["--help"]) == 0
    assert "prefix-peft train    --model gpt2-medium" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--num-virtual-tokens" in shown and "the length of the prefix" in shown
