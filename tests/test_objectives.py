"""What a step lowers: by token or by sentence, whatever the batches; and only logits that are judged are computed."""

import json

import pytest
import tiny
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from test_training import folder, options  # noqa: F401
from torch.nn.functional import cross_entropy

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.commands.arguments import DistillArguments
from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import collate, encode_pairs
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.training.run import Run
from prefix_peft.training.train import train

PAIRS = [("Mill", "a pub"), ("Vaults | Type : shop", "there is a shop , the Vaults , near it"), ("Rouge", "it is far")]


def a_run(folder, output, base, **more):  # noqa: F811
    arguments = options(folder, output, base, max_grad_norm=1e9, **more)
    set_seed(0)
    model, tokenizer = load_base(arguments.model)
    seq2seq = base == "bart"
    pairs = encode_pairs(PAIRS, tokenizer, is_encoder_decoder=seq2seq, separator=None if seq2seq else " =>")
    return Run(arguments, Accelerator(), prefix_peft.wrap(model, 3), tokenizer, pairs, pairs, target_loss)


def losses(run):
    """Of each pair alone: the sum over its target tokens, and how many they are."""
    for pair in run.pairs.examples:
        x, y = torch.tensor([pair["input_ids"]]), torch.tensor(pair["labels"])
        if run.seq2seq:
            read = torch.cat([torch.tensor([run.plain.config.decoder_start_token_id]), y[:-1]])
            logits = run.plain(input_ids=x, decoder_input_ids=read[None]).logits[0]
        else:
            logits, y = run.plain(x).logits[0, :-1], y[1:]
        yield cross_entropy(logits, y, reduction="sum"), int((y >= 0).sum())


@pytest.mark.parametrize("base", ["gpt2", "bart"])
@pytest.mark.parametrize("objective", ["token_mean", "sentence_sum"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_gradient_of_a_step_is_that_of_its_pairs_one_by_one(objective, size, base, folder, tmp_path):  # noqa: F811
    run = a_run(folder, tmp_path, base, objective=objective, per_device_train_batch_size=size)
    run.model.train()
    shown, norm = run._gradients(run.pairs.examples)
    parameters = [parameter for parameter in run.plain.parameters() if parameter.requires_grad]
    found = [parameter.grad.clone() for parameter in parameters]
    run.plain.zero_grad()
    sums, counts = zip(*losses(run), strict=True)
    assert len(set(counts)) == 3, "tokens and sentences weigh otherwise"
    total = torch.stack(sums).sum()
    (total / (sum(counts) if objective == "token_mean" else len(PAIRS))).backward()
    wanted = [parameter.grad for parameter in parameters]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert norm == pytest.approx(float(torch.stack([g.norm() for g in wanted]).norm()), rel=1e-4)
    assert shown == pytest.approx(float(total.detach()) / sum(counts), rel=1e-5), "by token, as the validation loss"
    run._log_validation()
    assert run.progress.log[-1]["validation_loss"] == pytest.approx(shown, rel=1e-5)


def test_a_checkpoint_of_another_objective_is_refused(folder, tmp_path):  # noqa: F811
    train(options(folder, tmp_path, objective="sentence_sum", max_steps=2, save_steps=2))
    with pytest.raises(ValueError, match=r"other arguments: objective was 'sentence_sum', is now 'token_mean'\. Use"):
        train(options(folder, tmp_path, max_steps=2, resume_from_checkpoint="last"))
    state = tmp_path / "checkpoint-2" / "training_state.json"
    kept = json.loads(state.read_text())
    del kept["arguments"]["objective"]  # a checkpoint older than the choice: there was but one
    state.write_text(json.dumps(kept))
    train(options(folder, tmp_path, max_steps=2, resume_from_checkpoint="last"))


def test_what_there_is_to_choose_is_said(folder, capsys):  # noqa: F811
    with pytest.raises(ValueError, match=r"--objective must be one of \['token_mean', 'sentence_sum'\], got 'sum'"):
        options(folder, folder, objective="sum")
    with pytest.raises(TypeError, match="objective"):
        DistillArguments("m", "f", output_dir="o", objective="sentence_sum")  # pyright: ignore[reportCallIssue]
    with pytest.raises(SystemExit):
        main(["distill", "--help"])
    assert "--objective" not in capsys.readouterr().out


def test_the_base_keeps_its_dropout_where_it_is_asked_to(folder, tmp_path):  # noqa: F811
    for base_dropout in (False, True):
        trained = train(options(folder, tmp_path, base_dropout=base_dropout, max_steps=1))
        model, ids = trained.model.train(), torch.arange(5, 15)[None]
        assert torch.equal(model(ids).logits, model(ids).logits) is not base_dropout
    assert "| base_dropout | True |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("family", list(tiny.CAUSAL))
def test_only_logits_that_are_judged_are_computed(family):
    """The loss and its gradient are those of all logits, and none is computed before the first target of any row."""
    model = prefix_peft.wrap(tiny.CAUSAL[family](), 3).train()
    rows = [tiny.tokens(9, seed=1).tolist(), tiny.tokens(7, seed=2).tolist(), tiny.tokens(8, seed=3).tolist()]
    rows = [{"input_ids": row, "labels": [-100] * start + row[start:]}
            for row, start in zip(rows, (5, 4, 7), strict=True)]  # fmt: skip
    batch = collate(rows, tiny.PAD, False)
    computed, whole_rows = [], []
    head = model.get_base_model().get_output_embeddings()
    head.register_forward_hook(lambda *call: computed.append(call[2].shape))
    head.register_forward_pre_hook(lambda _, states: whole_rows.append(states[0].is_contiguous()))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss, count = target_loss(model, batch, False)
    gradients = torch.autograd.grad(loss, parameters)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    whole = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss, whole)
    for ours, theirs in zip(gradients, torch.autograd.grad(whole, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert int(count) == 4 + 3 + 1
    assert [shape[1] for shape in computed] == [9 - 4 + 1, 9], "from one place before the first target on"
    assert all(whole_rows), "a frozen head would multiply a view of the states row by row, three times as slowly"


@pytest.mark.parametrize("labels", [[-100] * 4, [5, 6, 7, 8], [-100, 6, -100, -100], [-100] * 3 + [8]])
def test_targets_may_be_anywhere_or_nowhere(labels):
    class Model(torch.nn.Module):
        """Without ``logits_to_keep``."""

        def forward(self, input_ids, use_cache):
            return type("Output", (), {"logits": torch.arange(44.0).sin().view(1, 4, 11)})

    ids = torch.tensor([[5, 6, 7, 8]])
    loss, count = target_loss(Model(), {"input_ids": ids, "labels": torch.tensor([labels])}, False)
    rows = Model()(ids, False).logits[0].log_softmax(-1)
    wanted = [-rows[t - 1, labels[t]] for t in range(1, 4) if labels[t] >= 0]
    assert int(count) == len(wanted) and float(loss) == pytest.approx(float(sum(wanted)), rel=1e-6)
