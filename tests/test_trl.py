"""A prefix under TRL's SFTTrainer, DPOTrainer and GRPOTrainer, offline and on the CPU, beside loops of our own."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

import prefix_peft
from prefix_peft import PrefixConfig

P, ROWS, RATE, STEPS, BETA = 3, 6, 0.5, 4, 0.1
ROUNDED = {"atol": 1e-5, "rtol": 1e-4}  # the same sums in another order, over four steps
FORMS = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 13}}
# a memory, a schedule, and rows and dropout drawn at random: all that a resumed run has to find again
LIVELY = {
    "optim": "adamw_torch", "lr_scheduler_type": "linear", "learning_rate": 0.05, "max_steps": 6, "save_steps": 3,
    "per_device_train_batch_size": 2,
}  # fmt: skip

each_form = pytest.mark.parametrize("form", FORMS)
checkpointed_or_not = pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])


def words(ids):
    return " ".join(f"t{token}" for token in ids)


# of several lengths, so that there is padding; and no word that begins like a special token's (t0, t1, t2, t3)
PROMPTS = [[5, 6, 70 + i, 90][: 3 + i % 2] for i in range(ROWS)]
LIKED = [[80 + i, 60 + i, 40][: 2 + i % 2] for i in range(ROWS)]
DISLIKED = [[50 + i, 61, 40 + i, 57][: 1 + i % 4] for i in range(ROWS)]
TEXTS = Dataset.from_list(
    [{"prompt": words(x), "completion": f" {words(y)}"} for x, y in zip(PROMPTS, LIKED, strict=True)]
)
PAIRS = Dataset.from_list(
    [
        {"prompt": words(x), "chosen": f" {words(y)}", "rejected": f" {words(z)}"}
        for x, y, z in zip(PROMPTS, LIKED, DISLIKED, strict=True)
    ]
)


def settings(path, **options):
    """Plain SGD on all rows at once, unless asked otherwise."""
    plain = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": RATE, "max_grad_norm": 0.0}
    batch = {"per_device_train_batch_size": ROWS, "per_device_eval_batch_size": ROWS, "max_steps": STEPS}
    quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_steps": 1, "bf16": False}
    return {"output_dir": str(path), **plain, **batch, **quiet, "gradient_checkpointing": False, **options}


def config(**options):
    return PrefixConfig(num_virtual_tokens=P, task_type="CAUSAL_LM", **options)


def sft(path, prefix, callback=None, **options):
    torch.manual_seed(0)
    return SFTTrainer(
        tiny.build("llama"), SFTConfig(**settings(path, **options)), train_dataset=TEXTS, eval_dataset=TEXTS,
        processing_class=tiny.tokenizer(), peft_config=prefix, callbacks=[callback] if callback else None,
    )  # fmt: skip


def dpo(path, model=None, prefix=None, **options):
    torch.manual_seed(0)
    return DPOTrainer(
        model or tiny.build("llama"), args=DPOConfig(**settings(path, beta=BETA, **options)), train_dataset=PAIRS,
        processing_class=tiny.tokenizer(), peft_config=prefix,
    )  # fmt: skip


def values(model):
    return {name: parameter.detach().clone() for name, parameter in tiny.prefix_parameters(model).items()}


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def log_probabilities(model, completions):
    """(B,) of the words of each completion and its end, one row after the other and so without padding."""
    found = []
    for x, y in zip(PROMPTS, completions, strict=True):
        target = torch.tensor([*y, tiny.EOS])
        logits = model(torch.tensor([x + y])).logits[0, len(x) - 1 :]
        found.append(logits.log_softmax(-1)[range(len(target)), target].sum())
    return torch.stack(found)


def check_steps(trainer, loss_of, **options):
    """Train, and do the same from the same start in a loop of our own."""
    model, losses = get_peft_model(tiny.build("llama"), config(**options)), []
    model.load_state_dict(trainer.model.state_dict())
    start = values(model)
    trainer.train()
    for _ in range(STEPS):
        loss, parameters = loss_of(model), list(tiny.prefix_parameters(model).values())
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= RATE * gradient
        losses.append(loss.item())
    for name, expected in values(model).items():
        torch.testing.assert_close(values(trainer.model)[name], expected, **ROUNDED)
        assert not torch.allclose(expected, start[name], **ROUNDED), "and it went somewhere"
    assert logged(trainer, "loss") == pytest.approx(losses, rel=1e-4) and losses[-1] < losses[0] - 1e-3
    base = tiny.build("llama").state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in trainer.model.unload().state_dict().items())


@checkpointed_or_not
@each_form
def test_supervised_fine_tuning_steps_as_a_loop_does(form, checkpointing, tmp_path):
    trainer = sft(tmp_path, config(**FORMS[form]), gradient_checkpointing=checkpointing, save_steps=STEPS)
    tokens = sum(len(completion) + 1 for completion in LIKED)
    check_steps(trainer, lambda model: -log_probabilities(model, LIKED).sum() / tokens, **FORMS[form])
    saved = load_file(tmp_path / f"checkpoint-{STEPS}" / "adapter_model.safetensors")
    assert {name.rpartition(".")[2] for name in saved} == {"p_key", "p_value"}


@checkpointed_or_not
def test_supervised_fine_tuning_in_bfloat16(checkpointing, tmp_path):
    trainer = sft(tmp_path, config(), bf16=True, gradient_checkpointing=checkpointing)
    trainer.train()
    losses = logged(trainer, "loss")
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.05
    assert {value.dtype for value in values(trainer.model).values()} == {torch.float32}


PROMPT, GREEDY = torch.tensor(PROMPTS[1:2]), {"max_new_tokens": 5, "do_sample": False, "eos_token_id": tiny.EOS}


class Write(TrainerCallback):
    """Greedy text at each evaluation."""

    def __init__(self):
        self.written = []

    def on_evaluate(self, args, state, control, model, **kwargs):
        with torch.no_grad():
            self.written.append(model.generate(PROMPT, **GREEDY))


@each_form
def test_text_is_written_at_each_evaluation_and_training_goes_on(form, tmp_path):
    each = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    write, prefix = Write(), FORMS[form] | {"prefix_dropout": 0.2}
    silent = sft(tmp_path / "silent", config(**prefix), **each)
    silent.train()
    trainer = sft(tmp_path, config(**prefix), write, **each)
    trainer.train()
    expected = values(silent.model)
    assert all(torch.equal(value, expected[name]) for name, value in values(trainer.model).items())
    for step, written in zip((2, 4), write.written, strict=True):
        release = PeftModel.from_pretrained(tiny.build("llama"), tmp_path / f"checkpoint-{step}")
        assert torch.equal(release.generate(PROMPT, **GREEDY), written)


@each_form
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_resumed_training_equals_uninterrupted_training(kind, form, tmp_path):
    prefix = FORMS[form] | {"prefix_dropout": 0.2}
    start = {"sft": sft, "dpo": lambda path, prefix, **options: dpo(path, prefix=prefix, **options)}[kind]
    whole = start(tmp_path, config(**prefix), **LIVELY)
    whole.train()
    resumed = start(tmp_path, config(**prefix), **LIVELY)
    tiny.fill(resumed.model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(resumed, "loss") == logged(whole, "loss")
    expected = values(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in values(resumed.model).items())


def preference(model):
    """(B,): by how much the liked completion is likelier."""
    return log_probabilities(model, LIKED) - log_probabilities(model, DISLIKED)


@checkpointed_or_not
@each_form
def test_preferences_are_learnt_as_in_a_loop(form, checkpointing, tmp_path):
    """The reference is the base model alone, which here is another object, loaded anew."""
    trainer = dpo(tmp_path, prefix=config(**FORMS[form]), gradient_checkpointing=checkpointing)
    with torch.no_grad():
        reference = preference(tiny.build("llama"))
    check_steps(
        trainer, lambda model: -F.logsigmoid(BETA * (preference(model) - reference)).mean(), **FORMS[form]
    )  # fmt: skip


@pytest.mark.parametrize("precomputed", [False, True], ids=["in each step", "before"])
@torch.no_grad()
def test_reference_log_probabilities_are_those_of_the_bare_model(precomputed, tmp_path):
    trainer = dpo(tmp_path, prefix=config(), precompute_ref_log_probs=precomputed)
    tiny.fill(trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [batch["input_ids"][:ROWS, 2].tolist().index(70 + i) for i in range(ROWS)]  # they come in another order
    if precomputed:
        liked, disliked = batch["ref_chosen_logps"], batch["ref_rejected_logps"]
    else:
        liked, disliked = trainer.compute_ref_log_probs(trainer.model, batch)
    base = tiny.build("llama")
    for ours, completions in ((liked, LIKED), (disliked, DISLIKED)):
        torch.testing.assert_close(ours[rows], log_probabilities(base, completions))
        assert not torch.allclose(ours[rows], log_probabilities(trainer.model, completions), atol=0.1)


def test_a_closed_gate_starts_at_the_reference(tmp_path):
    trainer = dpo(tmp_path, prefix=config(gate=True), max_steps=1)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([math.log(2)], rel=1e-6)


STARTS = FORMS | {"sinks": {"num_frozen_tokens": 2}, "scaled": {"scale_parameter": True}}


# PEFT looks for the letters of an adapter's name in "prefix_kv_", and finds them; nothing comes of it
@pytest.mark.filterwarnings("ignore:Adapter name 'ref' should not be contained:UserWarning")
@pytest.mark.parametrize("form", STARTS)
def test_a_trained_prefix_is_its_own_reference(form, tmp_path):
    """A PeftModel goes in: TRL keeps what it was as the adapter 'ref', and a resumed run finds it again."""

    def start(seed):
        torch.manual_seed(seed)
        return tiny.fill(prefix_peft.wrap(tiny.build("llama"), P, **STARTS[form]), seed)

    model, ids = start(3), tiny.tokens(2, 7)
    with torch.no_grad():
        expected = model.eval()(ids).logits
    trainer = dpo(tmp_path, model, **LIVELY)
    trainer.train()
    resumed = dpo(tmp_path, start(4), **LIVELY)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(trainer, "loss") == logged(resumed, "loss") and logged(trainer, "loss")[0] > 0.69
    for ended in (trainer.model, resumed.model):
        ended.eval()
        with torch.no_grad():
            assert not torch.allclose(ended(ids).logits, expected, atol=1e-3)
            ended.set_adapter("ref")
            assert torch.equal(ended(ids).logits, expected)


@each_form
def test_rewards_rise_with_group_relative_policy_optimization(form, tmp_path):
    """The reward is the share of words from the lower half. A closed gate starts at the reference, the base."""

    def low(completion_ids, **_):
        return [sum(token < tiny.VOCAB // 2 for token in ids) / len(ids) for ids in completion_ids]

    torch.manual_seed(0)
    group = {"num_generations": 8, "per_device_train_batch_size": 32, "max_completion_length": 4, "beta": 0.01}
    trainer = GRPOTrainer(
        tiny.build("llama"), low, train_dataset=Dataset.from_list([{"prompt": words(x)} for x in PROMPTS]),
        args=GRPOConfig(**settings(tmp_path, max_steps=12, optim="adamw_torch", **group) | {"learning_rate": 0.1}),
        processing_class=tiny.tokenizer(), peft_config=config(gate=True, **FORMS[form]),
    )  # fmt: skip
    trainer.train()
    rewards = logged(trainer, "reward")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.05, "twice the error of a mean of 3 x 32 x 4 words"
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-6) and logged(trainer, "kl")[-1] > 0.01
    base = tiny.build("llama").state_dict()
    assert all(torch.equal(tensor, base[name]) for name, tensor in trainer.model.unload().state_dict().items())
