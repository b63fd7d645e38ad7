"""Encoders with a head for a task: prefix and head train together, are saved together, and nothing else changes."""

import peft
import pytest
import tiny
import torch
import transformers as tr

import prefix_peft
from prefix_peft import PrefixConfig, initialize_kv_prefix_from_tokens

P, LABELS = 3, 5
EXACT = {"atol": 5e-5, "rtol": 0.0}  # float32 rounds logits of 15 to 2e-6, through some twenty sums
SIZES = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 31,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "num_labels": LABELS,
    "pad_token_id": tiny.PAD,
}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
SPECIAL = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "Bert": (tr.BertConfig, {}),
    "Roberta": (tr.RobertaConfig, {}),
    "DebertaV2": (tr.DebertaV2Config, DISENTANGLED),
    "ModernBert": (tr.ModernBertConfig, SPECIAL),
    "Albert": (tr.AlbertConfig, {"embedding_size": 16}),
    "DistilBert": (tr.DistilBertConfig, {"hidden_dim": 31}),
    "Electra": (tr.ElectraConfig, {"embedding_size": 16}),
}
TASKS = {  # PEFT's task type: the ending of the class, PEFT's class, the class that finds the base model by itself
    "SEQ_CLS": ("ForSequenceClassification", peft.AutoPeftModelForSequenceClassification),
    "TOKEN_CLS": ("ForTokenClassification", peft.AutoPeftModelForTokenClassification),
    "QUESTION_ANS": ("ForQuestionAnswering", peft.AutoPeftModelForQuestionAnswering),
}
FAMILIES = list(CONFIGS)


def build(family, task="TOKEN_CLS", **changes):
    """A tiny model in eval mode whose tokens are distinct."""
    config, options = CONFIGS[family]
    torch.manual_seed(0)
    sizes = {"num_labels": 2} if task == "QUESTION_ANS" else {}
    model = getattr(tr, family + TASKS[task][0])(config(**SIZES | options | sizes | changes))
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.4)
    return model.eval()


def given(task):
    ids = tiny.tokens(2, 7)
    targets = {
        "SEQ_CLS": {"labels": torch.tensor([1, 4])},
        "TOKEN_CLS": {"labels": ids % LABELS},
        "QUESTION_ANS": {"start_positions": torch.tensor([1, 0]), "end_positions": torch.tensor([4, 6])},
    }
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, targets[task]


@torch.no_grad()
def answer(model, **inputs):
    """All that the head says."""
    out = model(**inputs)
    return torch.stack([out.start_logits, out.end_logits]) if "start_logits" in out else out.logits


def wrapped(base, task, through="wrap"):
    """PEFT finds the head by itself, but for ModernBERT's for questions, which is named as those of other tasks."""
    head = {"modules_to_save": ["classifier"]} if "ModernBertForQuestion" in type(base).__name__ else {}
    if through == "wrap":
        return prefix_peft.wrap(base, P, **head)
    return peft.get_peft_model(base, PrefixConfig(num_virtual_tokens=P, task_type=task, **head))


ANSWERS = "qa_outputs.modules_to_save"


def is_head(name):
    return ".modules_to_save." in name


@pytest.mark.parametrize("through", ["wrap", "get_peft_model"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_and_head_learn_and_nothing_else_does(family, task, through):
    model = wrapped(build(family, task), task, through).train()
    assert type(model).__name__ == f"PeftModel{TASKS[task][0]}" and model.peft_config["default"].task_type == task
    inputs, targets = given(task)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**inputs, **targets).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    learning = {name for name in before if "prefix_kv_encoder" in name or is_head(name)}
    # an answer's bias is in all terms of a softmax over the tokens: its gradient is zero, but for rounding
    assert {name for name in learning if not name.endswith(f"{ANSWERS}.default.bias")} <= changed <= learning
    assert any(map(is_head, changed))
    for name, parameter in tiny.prefix_parameters(model).items():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
    assert len(tiny.prefix_parameters(model)) == (2 if family == "Albert" else 6), "layers that are one share a prefix"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_with_its_head_and_loaded(family, task, tmp_path):
    base = build(family, task)
    base.save_pretrained(tmp_path / "base")
    model = wrapped(type(base).from_pretrained(tmp_path / "base"), task)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    model.eval().save_pretrained(tmp_path / "prefix")
    inputs, _ = given(task)
    expected = answer(model, **inputs)
    fresh = peft.PeftModel.from_pretrained(base, tmp_path / "prefix").eval()
    assert torch.equal(answer(fresh, **inputs), expected)
    assert torch.equal(answer(TASKS[task][1].from_pretrained(tmp_path / "prefix").eval(), **inputs), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_disabling_gives_the_bits_of_the_base(family):
    base, (inputs, _) = build(family), given("TOKEN_CLS")
    expected = answer(base, **inputs)
    model = tiny.fill(wrapped(base, "TOKEN_CLS")).eval()
    assert not torch.allclose(answer(model, **inputs), expected, atol=0.1)
    with model.disable_adapter():
        assert torch.equal(answer(model, **inputs), expected)


@pytest.mark.parametrize("head", ["Roberta", "Electra"])
def test_the_dropout_of_the_head_is_on_and_that_of_the_base_off(head):
    """The head is trained as a whole model would be; its dropout lies inside it."""
    model = wrapped(build(head, "SEQ_CLS", hidden_dropout_prob=0.5, classifier_dropout=0.5), "SEQ_CLS").train()
    read = []
    model.base_model.model.classifier.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    inputs, _ = given("SEQ_CLS")
    answers = [answer(model, **inputs) for _ in range(2)]
    assert torch.equal(*read) and not torch.equal(*answers)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_right_changes_nothing(family, attn_implementation):
    base = build(family)
    if family != "DebertaV2":
        base.set_attn_implementation(attn_implementation)
    model = tiny.fill(wrapped(base, "TOKEN_CLS")).eval()
    ids = tiny.tokens(2, 9)
    ids[0, 5:] = tiny.PAD
    mask = (ids != tiny.PAD).long()
    together = answer(model, input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(together[:1, :5], answer(model, input_ids=ids[:1, :5]), **EXACT)
    torch.testing.assert_close(together[1:], answer(model, input_ids=ids[1:]), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_with_real_tokens_equals_the_base_that_reads_them(family):
    """Deeper encoders cannot be equal: in the base the tokens would have read the text too."""
    plain = {"relative_attention": False, "position_biased_input": True} if family == "DebertaV2" else {}
    base, c, x = build(family, num_hidden_layers=1, **plain), tiny.tokens(1, P, seed=7), tiny.tokens(2, 9)
    expected = answer(base, input_ids=torch.cat([c.expand(2, -1), x], dim=1))[:, P:]
    assert (answer(base, input_ids=x) - expected).abs().max() > 0.1, "the tokens must matter"
    model = wrapped(base, "TOKEN_CLS").eval()
    assert initialize_kv_prefix_from_tokens(model, c) == 0
    torch.testing.assert_close(answer(model, input_ids=x), expected, **EXACT)


@torch.no_grad()
def test_disentangled_attention_scores_the_prefix_by_content_alone(monkeypatch):
    """Text keeps its relative positions, the prefix has none: softmax([q . P_K; scores]) [P_V; V]."""
    base, (inputs, _) = build("DebertaV2", num_hidden_layers=1), given("TOKEN_CLS")
    attention = base.deberta.encoder.layer[0].attention.self
    scores, hidden, context = [], [], []
    softmax = torch.nn.functional.softmax
    attention.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    attention.register_forward_hook(lambda _, args, out: context.append(out[0]))
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", lambda x, *a, **k: scores.append(x) or softmax(x, *a, **k))
        base(**inputs)
    assert len(scores) == 1
    query, value = (
        linear(hidden[0]).unflatten(-1, (4, 12)).transpose(1, 2).double()
        for linear in (attention.query_proj, attention.value_proj)
    )
    model = tiny.fill(wrapped(base, "TOKEN_CLS")).eval()
    p_key, p_value = (p.double() for p in tiny.prefix_parameters(model).values())
    ours = query @ p_key.transpose(-1, -2)  # it divides its keys by the scale before they meet the queries
    weights = torch.cat([ours, scores[0].double()], dim=-1).softmax(-1)
    expected = weights @ torch.cat([p_value.expand(2, -1, -1, -1), value], dim=2)
    model(**inputs)
    torch.testing.assert_close(context[-1].double(), expected.transpose(1, 2).flatten(-2), **EXACT)
