"""The way in for attention by hand: it leaves a module as it was; and the families that need more than it."""

import copy
import io
from functools import partial

import handmade
import pytest
import reference
import tiny
import torch
import transformers as tr
from accelerate.hooks import ModelHook, add_hook_to_module
from transformers.models.led.modeling_led import LEDEncoderSelfAttention

import prefix_peft
from prefix_peft.anatomy.sites import Site
from prefix_peft.anatomy.watching import anatomy_of
from prefix_peft.attention.terms import Prefix
from prefix_peft.by_hand import longformer
from prefix_peft.by_hand.door import close_door, is_open, open_door, opened
from prefix_peft.by_hand.modes import Serve
from prefix_peft.hook import Call, calling

P = 4
SIZES = tiny.TOKENS | {"n_embd": 44, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.15}
GPTJ = {"rotary_dim": 6, "n_inner": 31}
BY_HAND = {
    "gptj": lambda: tr.GPTJForCausalLM(tr.GPTJConfig(**SIZES, **GPTJ)),
    "codegen": lambda: tr.CodeGenForCausalLM(tr.CodeGenConfig(**SIZES, **GPTJ)),
    "xglm": lambda: tr.XGLMForCausalLM(
        tr.XGLMConfig(
            d_model=44,
            ffn_dim=31,
            num_layers=2,
            attention_heads=4,
            max_position_embeddings=64,
            init_std=0.15,
            **tiny.TOKENS,
        )
    ),
}


def build(family):
    torch.manual_seed(0)
    return BY_HAND[family]().eval()


def wrapped(family="gptj", **options):
    return tiny.fill(prefix_peft.wrap(build(family), P, **options)).eval()


@torch.no_grad()
def logits(model, ids=None, **options):
    return model(input_ids=tiny.tokens(2, 7) if ids is None else ids, use_cache=False, **options).logits


@pytest.mark.parametrize("family", BY_HAND)
def test_a_prefix_of_real_tokens_is_these_tokens(family):
    front, text = tiny.tokens(1, P, seed=7), tiny.tokens(1, 6, seed=3)
    whole = logits(build(family), torch.cat([front, text], dim=1))[:, P:]
    model = prefix_peft.wrap(build(family), P)
    assert all(site.by_hand for site in anatomy_of(model.get_base_model()).sites.values())
    prefix_peft.initialize_kv_prefix_from_tokens(model, front)
    torch.testing.assert_close(logits(model.eval(), text), whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(model.get_base_model(), text), logits(build(family), text), atol=1e-3)


@pytest.mark.parametrize("kind", ["any", "longformer"])
def test_a_door_opens_once_and_closes_without_a_trace(kind):
    module = handmade.Hand() if kind == "any" else led_attention()
    before = dict(vars(module))
    close_door(module)
    open_door(module)
    ours = module.forward
    open_door(module)
    assert module.forward is ours and is_open(module)
    with opened([module]):
        assert module.forward is ours
    assert is_open(module)
    close_door(module)
    assert vars(module) == before and not is_open(module)
    with pytest.raises(RuntimeError, match="inside"), opened([module]):
        assert is_open(module)
        raise RuntimeError("inside")
    assert vars(module) == before


def test_a_forward_that_someone_else_had_put_there():
    module = handmade.Hand()
    theirs = partial(lambda own, *qkv: own(*qkv) + 1, module.forward)
    module.forward = theirs
    given = handmade.qkv()
    before = module(*given)
    open_door(module)
    assert torch.equal(module(*given), before)
    close_door(module)
    assert module.forward is theirs


def test_a_door_under_a_hook_of_accelerate_is_not_opened_twice():
    model = wrapped()
    expected = logits(model)
    attention = model.get_base_model().transformer.h[0].attn
    add_hook_to_module(attention, ModelHook())
    assert torch.equal(logits(model), expected)
    base = model.unload()
    bare = logits(base)
    torch.testing.assert_close(bare, logits(build("gptj")))
    again = tiny.fill(prefix_peft.wrap(base, P)).eval()
    torch.testing.assert_close(logits(again), expected)


def test_unload_leaves_the_model_as_it_was():
    base = build("gptj")
    before, modules = logits(base), {name: sorted(vars(module)) for name, module in base.named_modules()}
    model = tiny.fill(prefix_peft.wrap(base, P)).eval()
    assert not torch.allclose(logits(model), before, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    again = model.unload()
    assert torch.equal(logits(again), before)
    for name, module in again.named_modules():
        assert "forward" not in vars(module) and sorted(vars(module)) == modules[name], name


def test_copies_have_prefixes_of_their_own():
    model = wrapped()
    before = logits(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in copy.deepcopy(model), torch.load(file, weights_only=False):
        assert torch.equal(logits(other), before)
        tiny.fill(other, seed=9)
        assert not torch.allclose(logits(other), before, atol=1e-3)
        assert torch.equal(logits(model), before)
        own = set(map(id, other.modules()))
        assert all(id(m.forward.args[0]) in own for m in other.modules() if is_open(m))


def test_several_adapters():
    model, alone = wrapped(), {}
    model.add_adapter("long", prefix_peft.PrefixConfig(num_virtual_tokens=P + 2, task_type="CAUSAL_LM"))
    tiny.fill_adapter(model, "long", seed=5)
    for name in "default", "long":
        model.set_adapter(name)
        alone[name] = logits(model)
    with model.disable_adapter():
        alone["__base__"] = logits(model)
    rows = ["long", "__base__"]
    mixed = logits(model, adapter_names=rows)
    torch.testing.assert_close(mixed, torch.stack([alone[name][row] for row, name in enumerate(rows)]))
    model.set_adapter("default")
    model.delete_adapter("long")
    assert torch.equal(logits(model), alone["default"])


def test_a_watcher_is_told_and_no_prefix_is_used():
    model, seen = wrapped(), []
    base = build("gptj")
    with calling(Call(watcher=lambda *told: seen.append(told[:4]))):
        out = logits(model)
    assert torch.equal(out, logits(base))
    assert [module for module, *_ in seen] == [block.attn for block in model.get_base_model().transformer.h]
    assert all(tensor.shape == (2, 4, 7, 11) for _, *tensors in seen for tensor in tensors)


STEP = 1e-5
W, LENGTH, HEADS, DIM, ROWS = 2, 12, 3, 5, 2  # tokens to each side; the length is a multiple of twice that
GLOBAL, PADDING = {0: [0, 7], 1: [3]}, {0: [], 1: [10, 11]}


def led_attention():
    torch.manual_seed(0)
    width = HEADS * DIM
    config = tr.LEDConfig(
        d_model=width, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, attention_window=[2 * W]
    )
    return LEDEncoderSelfAttention(config, 0).double().eval()


def marks(positions):
    mask = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    for row, at in positions.items():
        mask[row, at] = True
    return mask


def states_of(module, states, kind):
    return getattr(module, kind)(states).unflatten(-1, (HEADS, DIM)).transpose(1, 2)


@torch.no_grad()
def led_by_definition(module, states, padding, everywhere, prefix):
    """Local queries see a band and the global tokens, global ones have their own projections and see all."""
    distance = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    local = ((distance <= W) | everywhere[:, None]) & ~padding[:, None]
    shown = torch.ones(ROWS, P, dtype=torch.bool) if prefix.visible is None else prefix.visible[:, 0]
    rows = [[part[:, seen] for part, seen in zip(p.expand(ROWS, -1, -1, -1), shown, strict=True)] for p in prefix[:2]]
    parts = [states_of(module, states, kind) for kind in ("query", "key", "value")]
    own = [states_of(module, states, kind) for kind in ("query_global", "key_global", "value_global")]
    banded = reference.attention(*parts, local, *rows)
    whole = reference.attention(*own, (~padding)[:, None].expand(-1, LENGTH, -1), *rows)
    return torch.where(everywhere[:, :, None, None], whole, banded).flatten(2)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("some_are_global", [False, True])
def test_longformer_is_a_dense_computation_over_the_band(some_are_global, shared):
    module, states = led_attention(), handmade.draw(ROWS, LENGTH, HEADS * DIM, seed=1).double()
    padding, everywhere = marks(PADDING), marks(GLOBAL if some_are_global else {})
    arguments = {
        "attention_mask": everywhere * 10000.0 - padding * 10000.0,
        "is_index_masked": padding,
        "is_index_global_attn": everywhere,
        "is_global_attn": some_are_global,
    }
    given = Prefix(*(handmade.draw(ROWS, HEADS, P, DIM, seed=seed) for seed in (2, 3)))
    if shared:
        given = given._replace(key=given.key[:1], value=given.value[:1])
    else:
        given = given._replace(visible=torch.tensor([[[True, True, False, False]], [[False] * P]]))
    site = Site("", "encoder", HEADS, DIM, DIM, by_hand=True)
    with longformer.readable(module), Serve(module, site, lambda batch: given), torch.no_grad():
        out = module(states, **arguments)[0]
    wanted = led_by_definition(module, states, padding, everywhere, given)
    torch.testing.assert_close(out[~padding], wanted[~padding])
    assert not {longformer.SCORES, longformer.VALUES} & set(vars(module))


def test_reformer_has_the_gradients_of_finite_differences():
    torch.manual_seed(0)
    config = tr.ReformerConfig(
        is_decoder=True,
        attn_layers=["local", "lsh"],
        hidden_size=24,
        feed_forward_size=20,
        num_attention_heads=3,
        attention_head_size=8,
        axial_pos_shape=[4, 4],
        axial_pos_embds_dim=[8, 16],
        local_attn_chunk_length=4,
        lsh_attn_chunk_length=4,
        num_buckets=2,
        hash_seed=0,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        **tiny.TOKENS,
    )
    model = tiny.fill(prefix_peft.wrap(tr.ReformerModelWithLMHead(config), P)).double().train()
    with pytest.raises(NotImplementedError, match="ReformerLayer runs again in its backward pass"):
        model(tiny.tokens(1, 16), adapter_names=["default"])
    ids = tiny.tokens(1, 16)

    def loss():
        return model(input_ids=ids).logits.log_softmax(-1)[..., 7].sum()

    loss().backward()
    for name, parameter in tiny.prefix_parameters(model).items():
        numbers, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        assert gradient.abs().max() > 1e-4, name
        for at in (0, int(gradient.abs().argmax())):
            numbers[at] += STEP
            more = loss().detach()
            numbers[at] -= 2 * STEP
            less = loss().detach()
            numbers[at] += STEP
            torch.testing.assert_close((more - less) / (2 * STEP), gradient[at], rtol=1e-5, atol=1e-8)


def test_pages_are_not_read_by_hand():
    with pytest.raises(NotImplementedError, match="GPTJForCausalLM computes its attention by hand and does not read"):
        wrapped().get_base_model().generate_batch([[5, 6, 7]])


@pytest.mark.parametrize("follows", ["nothing", "a sum that is no product", "a softmax over other scores"])
def test_what_cannot_be_followed_is_refused(follows):
    """Better than a prefix that takes its share of the weights and gives no values, or is not there at all."""
    query, key, value = torch.randn(3, 1, 2, 5, 6)
    site, given = Site("", "decoder", 2, 6, 6, by_hand=True), Prefix(*torch.randn(2, 1, 2, P, 6))
    with pytest.raises(NotImplementedError, match="Linear attended in a way in which its prefix cannot be followed"):  # noqa: SIM117
        with Serve(torch.nn.Linear(1, 1), site, lambda batch: given):
            scores = query @ key.transpose(-1, -2)
            if follows == "a sum that is no product":
                (scores.softmax(-1)[..., None] * value[:, :, None]).sum(-2)
            elif follows == "a softmax over other scores":
                scores.cumsum(-1).flip(-1).softmax(-2) @ value
