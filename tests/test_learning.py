"""The prefix learns, all of it, and nothing else does."""

import pytest
import tiny
import torch

import prefix_peft

FORMS = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 13}, "gate": {"gate": True}}


def step(model, family, lr=0.5, steps=1):
    """SGD on the model's own loss; a gate gives P its first gradient once it has moved."""
    given = tiny.inputs(family)
    labels = given["input_ids"] if family in tiny.CAUSAL else given.pop("decoder_input_ids")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**given, labels=labels).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_prefix_parameter_moves_and_no_other(family, form):
    model = prefix_peft.wrap(tiny.build(family), 3, **FORMS[form]).train()
    with torch.no_grad():
        model(**tiny.inputs(family))  # evaluating first must not freeze the prefix
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, family, steps=2 if form == "gate" else 1)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "prefix_kv_encoder" in name}
    for name, parameter in tiny.prefix_parameters(model).items():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for name, p in model.named_parameters() if "prefix_kv_encoder" not in name)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_the_prefix_stays_in_sight_of_a_sliding_window(attn_implementation):
    config = tiny.tr.MistralConfig(**tiny.LLAMA_LIKE, sliding_window=4)
    torch.manual_seed(0)
    base = tiny.tr.MistralForCausalLM(config).eval()
    base.set_attn_implementation(attn_implementation)
    model = tiny.fill(prefix_peft.wrap(base, 3))
    ids = tiny.tokens(1, 30)
    model(ids).logits[0, -1].logsumexp(-1).backward()
    assert all(p.grad.abs().max() > 0 for p in tiny.prefix_parameters(model).values())
    with torch.no_grad():
        other = torch.cat([tiny.tokens(1, 10, seed=9), ids[:, 10:]], dim=1)  # three layers of window 4 see 10 back
        assert torch.equal(model(ids).logits[:, -1], model(other).logits[:, -1]), "the window must bind"


def test_no_two_sites_share_a_prefix():
    model = prefix_peft.wrap(tiny.build("bart"), 3)
    step(model, "bart")
    keys = [p for name, p in tiny.prefix_parameters(model).items() if name.endswith("p_key")]
    assert len({p.data_ptr() for p in keys}) == len(keys) == 8
    assert not any(torch.equal(a, b) for i, a in enumerate(keys) for b in keys[:i])


def test_a_row_of_mlp_input_is_one_virtual_token():
    """Section 4.3 of the paper: P[i, :] = MLP(P'[i, :]), so changing P'[i, :] changes token i alone, at every site."""
    model = prefix_peft.wrap(tiny.build("gpt2"), 3, prefix_projection=True, encoder_hidden_size=13)
    encoders = [m for m in model.modules() if type(m).__name__ == "MLPEncoder"]
    before = [encoder() for encoder in encoders]
    with torch.no_grad():
        encoders[0].shared_trunk.embedding[1] += 1
    for encoder, old in zip(encoders, before, strict=True):
        for new_part, old_part in zip(encoder(), old, strict=True):
            changed = (new_part != old_part).any(dim=-1)
            assert changed[:, 1].all() and not changed[:, [0, 2]].any()
    linear = encoders[1].shared_trunk
    hidden = torch.tanh(linear.embedding.double() @ linear.linear.weight.double().T + linear.linear.bias.double())
    whole = hidden @ encoders[1].head.weight.double().T + encoders[1].head.bias.double()
    by_head = whole.view(3, 4, 22)  # (P, G, D_k + D_v)
    p_key, p_value = encoders[1]()
    torch.testing.assert_close(p_key.double(), by_head[..., :11].transpose(0, 1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(p_value.double(), by_head[..., 11:].transpose(0, 1), atol=1e-6, rtol=1e-5)


def gradients(family, form, checkpointing=None, before=False, dropout=0.0, rows=None):
    base = tiny.build(family)
    model = None
    if before and checkpointing:
        base.gradient_checkpointing_enable(checkpointing)
    model = prefix_peft.wrap(base, 3, **FORMS[form], prefix_dropout=dropout)
    if rows:
        torch.manual_seed(5)
        model.add_adapter(
            "other", prefix_peft.PrefixConfig(num_virtual_tokens=2, task_type=model.peft_config["default"].task_type)
        )
        model.base_model.set_requires_grad("other")
    tiny.fill(model)
    if checkpointing and not before:
        model.gradient_checkpointing_enable(checkpointing)
    model.train()
    given = tiny.inputs(family)
    labels = given["input_ids"] if family in tiny.CAUSAL else given.pop("decoder_input_ids")
    torch.manual_seed(1)
    extra = {"adapter_names": rows} if rows else {}
    loss = model(**given, labels=labels, use_cache=False, **extra).loss
    loss.backward()
    return loss, {name: p.grad for name, p in tiny.prefix_parameters(model).items()}


@pytest.mark.parametrize("rows", [None, ["other", "default"]], ids=["one prefix", "a prefix a row"])
@pytest.mark.parametrize("before", [False, True], ids=["enabled after", "enabled before"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("family", ["gpt2", "gemma3", "bart", "t5"])
def test_gradient_checkpointing_changes_no_gradient(family, reentrant, before, rows):
    kwargs = {"use_reentrant": reentrant}
    loss, plain = gradients(family, "mlp", dropout=0.2, rows=rows)
    loss_again, checkpointed = gradients(family, "mlp", kwargs, before, dropout=0.2, rows=rows)
    torch.testing.assert_close(loss_again, loss)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_checkpointing_really_recomputes():
    model = prefix_peft.wrap(tiny.build("gpt2"), 3).train()
    model.gradient_checkpointing_enable()
    calls = []
    model.get_base_model().transformer.h[1].ln_1.register_forward_hook(lambda *_: calls.append(1))
    step(model, "gpt2")
    assert len(calls) == 2


def test_encoders_checkpoint_as_well():
    sizes = {"hidden_size": 22, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 13}
    torch.manual_seed(0)
    bert = tiny.tr.BertForSequenceClassification(tiny.tr.BertConfig(vocab_size=tiny.VOCAB, **sizes))
    model = tiny.fill(prefix_peft.wrap(bert, 3)).train()
    ids, labels = tiny.tokens(2, 7), torch.tensor([0, 1])
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        found.append([p.grad.clone() for p in tiny.prefix_parameters(model).values()])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain)


DROPOUT = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "llama": ("attention_dropout",),
    "bart": ("dropout", "attention_dropout", "activation_dropout"), "opt": ("dropout", "attention_dropout"),
    "t5": ("dropout_rate",),
}  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", DROPOUT)
def test_the_base_has_no_dropout_while_training_unless_asked_for(family, checkpointing, monkeypatch):
    def twice(**options):
        model = prefix_peft.wrap(tiny.FAMILIES[family](), 3, **options).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        return [model(**tiny.inputs(family), use_cache=False).logits for _ in range(2)]

    with_dropout(family, monkeypatch)
    quiet = twice()
    assert torch.equal(*quiet)
    assert not torch.equal(*twice(base_dropout=True))


def with_dropout(family, monkeypatch):
    """Let the family's builder make models whose every dropout is 0.5."""
    build = tiny.FAMILIES[family]

    def make():
        config = build().config
        for name in DROPOUT[family]:
            setattr(config, name, 0.5)
        torch.manual_seed(0)
        return type(build())(config)

    monkeypatch.setitem(tiny.FAMILIES, family, make)


def test_dropout_of_the_prefix():
    model = tiny.fill(prefix_peft.wrap(tiny.build("gpt2"), 3, prefix_dropout=0.5))
    ids = tiny.tokens(1, 6)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("form", ["flat", "mlp"])
def test_a_random_start_is_near_the_base(form):
    """Nearer than noise of the spread of real keys would be, whose loss is the other end of the scale."""
    base, ids = tiny.build("gpt2"), tiny.tokens(8, 20)

    def loss(model):
        with torch.no_grad():
            return float(model(ids, labels=ids).loss)

    bare = loss(base)
    model = prefix_peft.wrap(base, 8, **FORMS[form])
    start = loss(model)
    noise = loss(tiny.fill(prefix_peft.wrap(tiny.build("gpt2"), 8), std=3.0))
    assert abs(start - bare) < 0.3 * abs(noise - bare)
