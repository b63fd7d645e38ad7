"""A prefix under transformers' Trainer and Seq2SeqTrainer, offline and on the CPU."""

import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback, TrainingArguments

import prefix_peft
from prefix_peft import PrefixConfig

P, ROWS, LENGTH, RATE = 3, 4, 7, 0.5
# what a release does not hold whole: an MLP, digits beyond its precision, units; and what it holds in parts
FORMS = {
    "flat": {},
    "mlp": {"prefix_projection": True, "encoder_hidden_size": 13},
    "half": {"release_dtype": "bfloat16"},
    "sinks": {"num_frozen_tokens": 1},
    "scaled": {"num_frozen_tokens": 1, "scale_parameter": True},
    "gate": {"gate": True},
}
ROUNDED = {"atol": 1e-5, "rtol": 1e-4}  # the same sums in another order, over five steps


def rows(seed):
    return [{"input_ids": ids, "labels": ids} for ids in tiny.tokens(ROWS, LENGTH, seed=seed)]


def arguments(path, kind=TrainingArguments, **options):
    """Plain SGD on all rows at once, unless asked otherwise."""
    plain = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": RATE, "max_grad_norm": 0.0}
    batch = {"per_device_train_batch_size": ROWS, "per_device_eval_batch_size": ROWS, "max_steps": 5}
    quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    return kind(output_dir=str(path), **plain | batch | quiet | options)


def wrapped(**options):
    torch.manual_seed(0)
    return prefix_peft.wrap(tiny.build("llama"), P, **options)


def trained(path, model=None, resume=None, **options):
    model = model or wrapped()
    trainer = Trainer(model, arguments(path, **options), train_dataset=rows(0), eval_dataset=rows(1))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def values(model):
    return {name: parameter.detach().clone() for name, parameter in tiny.prefix_parameters(model).items()}


def by_hand(steps=5):
    """The same steps in a loop of our own."""
    model, ids = wrapped(), tiny.tokens(ROWS, LENGTH)
    for _ in range(steps):
        logits = model(ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        parameters = list(tiny.prefix_parameters(model).values())
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= RATE * gradient
    return model


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_trainer_steps_as_a_loop_does(tmp_path, checkpointing):
    trainer = trained(tmp_path, gradient_checkpointing=checkpointing)
    ours, theirs = values(by_hand()), values(trainer.model)
    start = values(wrapped())
    for name, expected in ours.items():
        torch.testing.assert_close(theirs[name], expected, **ROUNDED)
        assert not torch.allclose(expected, start[name], **ROUNDED), "and it went somewhere"
    base = tiny.build("llama").state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in trainer.model.unload().state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_and_the_best_checkpoint(form, tmp_path):
    """Learning one text by heart makes another worse in the end, so the best checkpoint is not the last."""
    each = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    rate = 0.3 if form == "mlp" else 3.0
    trainer = trained(
        tmp_path, wrapped(**FORMS[form]), **each, max_steps=8, learning_rate=rate, load_best_model_at_end=True,
        save_only_model=True,
    )  # fmt: skip
    scores = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    best = 1 + min(range(8), key=scores.__getitem__)
    assert best < 8 and trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(scores[best - 1], rel=1e-6)
    with torch.no_grad():
        ids = tiny.tokens(ROWS, LENGTH, seed=1)
        assert float(trainer.model.eval()(ids, labels=ids).loss) == pytest.approx(scores[best - 1], rel=1e-5)


TRAINERS_OWN = {
    "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin"
}  # fmt: skip
RELEASE = {"adapter_model.safetensors", "adapter_config.json", "README.md"}
TRAINED = "adapter_training.safetensors"


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_holds_the_prefix_and_what_it_trains_by(form, tmp_path):
    """P in the release, nothing of the base anywhere, and one file more only where P alone is not enough to go on."""
    trainer = trained(tmp_path, wrapped(**FORMS[form]), save_strategy="steps", save_steps=5)
    trainer.save_model(str(tmp_path / "release"))
    more = {TRAINED} if form in ("mlp", "half", "scaled") else set()
    assert {path.name for path in (tmp_path / "checkpoint-5").iterdir()} == RELEASE | TRAINERS_OWN | more
    assert {path.name for path in (tmp_path / "release").iterdir()} == RELEASE | {"training_args.bin"}
    numbers = 3 * 2 * (P * (14 + 14) + (form == "gate"))  # layers, heads, P of two widths, a gate
    for directory in ("checkpoint-5", "release"):
        saved = load_file(tmp_path / directory / "adapter_model.safetensors")
        assert sum(value.numel() for value in saved.values()) == numbers
        assert (tmp_path / directory / "adapter_model.safetensors").stat().st_size < 4 * numbers + 2048
    if more:
        kept = load_file(tmp_path / "checkpoint-5" / TRAINED)
        held = trainer.model.state_dict()
        prefix = {name.replace(".default", ""): held[name] for name in held if "prefix_kv" in name}
        assert kept.keys() == prefix.keys() and all(torch.equal(kept[name], prefix[name]) for name in prefix)


@pytest.mark.parametrize("form", ["mlp", "half"])
def test_a_checkpoint_loads_as_a_release_whatever_lies_beside_it(form, tmp_path):
    wrapped(**FORMS[form]).save_pretrained(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / TRAINED).write_bytes(b"broken")
    model = PeftModel.from_pretrained(tiny.build("llama"), tmp_path / "checkpoint-1")
    released = load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    assert {name.replace(".default", "") for name in values(model)} == released.keys()
    for name, value in values(model).items():
        assert torch.equal(value, released[name.replace(".default", "")].float())


def test_other_processes_write_nothing(tmp_path):
    model = wrapped(**FORMS["mlp"])
    model.save_pretrained(tmp_path / "checkpoint-1", is_main_process=False)
    assert not any((tmp_path / "checkpoint-1").iterdir())


@pytest.fixture
def checkpoint(tmp_path):
    """Of an MLP."""
    wrapped(**FORMS["mlp"]).save_pretrained(tmp_path / "checkpoint-5")
    return tmp_path / "checkpoint-5"


def cut(directory):
    (directory / TRAINED).write_bytes((directory / TRAINED).read_bytes()[:99])


def other_release(directory):
    tensors = load_file(directory / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, directory / "adapter_model.safetensors")


SPOILT = {
    "missing": (lambda directory: (directory / TRAINED).unlink(), rf"as it was saved, with its {TRAINED}"),
    "another release": (other_release, rf"as it was saved, with its {TRAINED}"),
    "cut": (cut, rf"{TRAINED} is broken .* resume from an earlier one"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_checkpoint_is_refused_and_changes_nothing(kind, checkpoint):
    spoil, message = SPOILT[kind]
    spoil(checkpoint)
    model = tiny.fill(wrapped(**FORMS["mlp"]))
    before = values(model)
    with pytest.raises(ValueError, match=message):
        model.load_adapter(checkpoint, "default", is_trainable=True)
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())


def test_a_checkpoint_of_another_mlp_is_refused(checkpoint):
    model = wrapped(prefix_projection=True, encoder_hidden_size=17)
    with pytest.raises(ValueError, match=r"head.weight is \(56, 13\) in the file, the model needs \(56, 17\)"):
        model.load_adapter(checkpoint, "default", is_trainable=True)


def test_each_adapter_of_a_checkpoint_has_its_own(tmp_path):
    model = wrapped(**FORMS["mlp"])
    model.add_adapter("second", PrefixConfig(num_virtual_tokens=5, task_type="CAUSAL_LM", **FORMS["mlp"]))
    tiny.fill(model).save_pretrained(tmp_path / "checkpoint-2")
    again = wrapped(**FORMS["mlp"])
    again.add_adapter("second", PrefixConfig(num_virtual_tokens=5, task_type="CAUSAL_LM", **FORMS["mlp"]))
    again.load_adapter(tmp_path / "checkpoint-2", "default", is_trainable=True)
    again.load_adapter(tmp_path / "checkpoint-2" / "second", "second", is_trainable=True)
    expected = values(model)
    assert all(torch.equal(value, expected[name]) for name, value in values(again).items())


class Stop(TrainerCallback):
    """An interruption after some steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("form", FORMS)
def test_resumed_training_equals_uninterrupted_training(form, tmp_path):
    """With an optimizer that remembers, a schedule, and dropout and batches drawn at random."""
    options = {
        "optim": "adamw_torch", "lr_scheduler_type": "linear", "learning_rate": 0.05, "max_steps": 6,
        "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 3,
    }  # fmt: skip
    prefix = FORMS[form] | {"prefix_dropout": 0.2}
    whole = trained(tmp_path / "whole", wrapped(**prefix), **options)
    first = Trainer(wrapped(**prefix), arguments(tmp_path / "parts", **options), train_dataset=rows(0))
    first.add_callback(Stop(3))
    first.train()
    assert first.state.global_step == 3
    fresh = tiny.fill(wrapped(**prefix))
    resumed = trained(tmp_path / "parts", fresh, resume=str(tmp_path / "parts" / "checkpoint-3"), **options)
    assert resumed.state.global_step == 6
    expected = values(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in values(resumed.model).items())
    assert not all(torch.equal(value, expected[name]) for name, value in values(first.model).items())


def test_autocast_to_bfloat16(tmp_path):
    trainer = trained(tmp_path, bf16=True)
    assert losses(trainer) == sorted(losses(trainer), reverse=True)
    start, exact = values(wrapped()), values(by_hand())
    for name, value in values(trainer.model).items():
        assert value.dtype == torch.float32
        error = (value - exact[name]).norm() / (exact[name] - start[name]).norm()
        assert 0 < error < 0.1, "steps in the same direction, up to 2^-8 at each of some twenty roundings"


@pytest.mark.parametrize("form", ["flat", "mlp"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_decoders_write_at_each_evaluation(family, form, tmp_path):
    """What the metric is given is what the release of that step writes. The least right, as was asked for, remains."""
    sources, targets = tiny.tokens(ROWS, LENGTH), tiny.tokens(ROWS, 5, seed=1)
    data = [{"input_ids": x, "labels": y} for x, y in zip(sources, targets, strict=True)]
    written = []

    def metric(prediction):
        written.append(torch.tensor(prediction.predictions)[:, :6])
        return {"right": float((written[-1][:, 1:] == targets).float().mean())}

    settings = arguments(
        tmp_path, Seq2SeqTrainingArguments, predict_with_generate=True, generation_max_length=6, max_steps=12,
        optim="adamw_torch", learning_rate=0.1, eval_strategy="steps", eval_steps=4, save_strategy="steps",
        save_steps=4, load_best_model_at_end=True, metric_for_best_model="right", greater_is_better=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = prefix_peft.wrap(tiny.build(family), P, **FORMS[form])
    trainer = Seq2SeqTrainer(model, settings, train_dataset=data, eval_dataset=data, compute_metrics=metric)
    trainer.train()
    right = [entry["eval_right"] for entry in trainer.state.log_history if "eval_right" in entry]
    releases = [tmp_path / f"checkpoint-{step}" for step in (4, 8, 12)]
    best = releases[right.index(min(right))]
    assert best != releases[-1] and trainer.state.best_model_checkpoint == str(best)
    for release, ids in zip(releases, written, strict=True):
        model = PeftModel.from_pretrained(tiny.build(family), release)
        assert torch.equal(model.generate(input_ids=sources, max_length=6, do_sample=False), ids)
    trainer.save_model(str(tmp_path / "kept"))
    kept, expected = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "kept", best))
    assert kept.keys() == expected.keys() and all(torch.equal(kept[name], expected[name]) for name in kept)
