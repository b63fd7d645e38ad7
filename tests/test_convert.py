"""Prefixes of other libraries: what their own code computes, or a refusal, and never half a file."""

import json
import re
import shlex
from pathlib import Path

import peft
import pytest
import tiny
import torch
import transformers as tr
from safetensors.torch import load_file, save_file
from torch import nn

import prefix_peft
from prefix_peft import convert
from prefix_peft.__main__ import main
from prefix_peft.layer import prefix_layers

P, WEIGHTS, CONFIG = 4, "adapter_model.safetensors", "adapter_config.json"
CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # float32 logits of up to 15, summed in another order
ROUNDING = 2 * torch.finfo(torch.float32).eps  # of a key that is turned twice, each time rounded once


def padded():
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    return {"input_ids": tiny.tokens(2, 9), "attention_mask": mask}


def bart(layers):
    torch.manual_seed(0)
    config = tiny.BART_LIKE | {"encoder_layers": layers, "decoder_layers": layers}
    model = tr.BartForConditionalGeneration(tr.BartConfig(**config)).eval()
    model.generation_config = tr.GenerationConfig(pad_token_id=0, eos_token_id=None, decoder_start_token_id=1)
    return model


def small(name, **config):
    torch.manual_seed(0)
    known = {key: value for key, value in (tiny.LLAMA_LIKE | config).items() if value is not None}
    return getattr(tr, f"{name}ForCausalLM")(getattr(tr, f"{name}Config")(**known)).eval()


BASES = {
    **{family: lambda family=family: tiny.build(family) for family in tiny.FAMILIES},
    "bart-2": lambda: bart(2),
    "bart-3": lambda: bart(3),
    "neox": lambda: small("GPTNeoX", num_attention_heads=3, num_key_value_heads=None, rotary_pct=0.5),  # partial
    "cohere": lambda: small("Cohere"),  # interleaved
    "gpt-oss": lambda: small(  # sinks, beside which equal tokens are not all the same
        "GptOss",
        num_local_experts=2,
        num_experts_per_tok=1,
        layer_types=["full_attention"] * 3,
        hidden_size=48,
        intermediate_size=32,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4},
    ),
    "smollm3": lambda: small("SmolLM3", no_rope_layers=[1, 0, 1], pad_token_id=0),  # one layer without positions
}
KINDS = {
    "prefix": lambda **c: peft.PrefixTuningConfig(num_virtual_tokens=P, **c),
    "projection": lambda **c: peft.PrefixTuningConfig(
        num_virtual_tokens=P, prefix_projection=True, encoder_hidden_size=7, **c
    ),
    "cartridge": lambda **c: peft.CartridgeConfig(num_virtual_tokens=P, num_frozen_tokens=2, **c),
}


def by_peft(directory, base, kind="prefix", seed=0):
    """A prefix of PEFT's own making, and its own model with it."""
    torch.manual_seed(seed)
    task = "SEQ_2_SEQ_LM" if BASES[base]().config.is_encoder_decoder else "CAUSAL_LM"
    peft.get_peft_model(BASES[base](), KINDS[kind](task_type=task)).save_pretrained(directory)
    return peft.PeftModel.from_pretrained(BASES[base](), directory).eval()


def ours(directory, base):
    return peft.PeftModel.from_pretrained(BASES[base](), directory).eval()


@torch.no_grad()
def check_same(one, other, given=None, new=6):
    given = given or padded()
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(one(**given).logits[seen], other(**given).logits[seen], **CLOSE)
    options = {"max_new_tokens": new, "do_sample": False}
    assert torch.equal(one.generate(**given, **options), other.generate(**given, **options))


LEARNED = ("gpt2", "opt")
CASES = [
    ("gpt2", "prefix"), ("gpt2", "projection"), ("opt", "cartridge"), ("llama", "cartridge"), ("qwen3", "projection"),
    ("gemma3", "prefix"), ("cohere", "prefix"), ("neox", "prefix"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "kind"), CASES)
def test_a_prefix_of_peft_does_what_it_does_there_and_goes_back(base, kind, tmp_path):
    theirs = by_peft(tmp_path / "old", base, kind)
    model = BASES[base]().train()
    done = convert.convert(tmp_path / "old", tmp_path / "new", model)
    assert all(p.requires_grad for p in model.parameters()) and model.training and not prefix_layers(model)
    assert any("out of sight after 64" in note for note in done.notes) == (base == "gemma3")
    check_same(ours(tmp_path / "new", base), theirs)
    config = ours(tmp_path / "new", base).peft_config["default"]
    assert config.position_mode == ("shift" if base in LEARNED else "keep")
    assert config.num_frozen_tokens == (2 if kind == "cartridge" else 0) and config.base_fingerprint
    assert config.trained_with == {"converted_from": "cartridge" if kind == "cartridge" else "peft"}
    to = "cartridge" if kind == "cartridge" else "peft"
    convert.convert(tmp_path / "new", tmp_path / "back", model, to=to)
    before, after = (load_file(tmp_path / name / WEIGHTS)["prompt_embeddings"] for name in ("old", "back"))
    largest = before.abs().max().item() * 2**0.5  # of a pair, which may turn into one number
    assert torch.equal(before, after) if base in LEARNED else (before - after).abs().max() <= ROUNDING * largest
    told = [json.loads((tmp_path / name / CONFIG).read_text()) for name in ("old", "back")]
    differ = {key for key in told[0] if told[0][key] != told[1].get(key)}
    assert differ <= {"prefix_projection", "encoder_hidden_size"}
    check_same(peft.PeftModel.from_pretrained(BASES[base](), tmp_path / "back").eval(), theirs)


@pytest.mark.parametrize("base", ["bart-2", "bart-3"])
@torch.no_grad()
def test_an_encoder_decoder_reads_the_layers_that_peft_gives_it(base, tmp_path):
    theirs, given = by_peft(tmp_path / "old", base), tiny.inputs("bart")
    done = convert.convert(tmp_path / "old", tmp_path / "new", BASES[base]())
    assert len(done.notes) == (base == "bart-2")
    model = ours(tmp_path / "new", base)
    torch.testing.assert_close(model(**given).logits, theirs(**given).logits, **CLOSE)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**padded(), **options), theirs.generate(**padded(), **options))
    assert {layer.site.role for layer in prefix_layers(model)} == {"decoder"}
    done = convert.convert(tmp_path / "new", tmp_path / "back", BASES[base](), to="peft")
    assert len(done.notes) == (base == "bart-2")
    again = peft.PeftModel.from_pretrained(BASES[base](), tmp_path / "back").eval()
    assert torch.equal(again(**given).logits, theirs(**given).logits)


def embedding_and_mlp(name, maps, width, length=P, middle=7, inner=5):
    """Modules as the paper's code, P-tuning v2 and AdapterHub have them, in their own names."""
    mlp = nn.Sequential(nn.Linear(inner, middle), nn.Tanh(), nn.Linear(middle, width))
    module = nn.ModuleDict({"a": nn.Embedding(length, inner), "b": mlp})
    with torch.no_grad():
        mlp[2].weight.mul_(3)
        rows = mlp(module["a"](torch.arange(length)))
    state = {
        f"{name}.weight": module["a"].weight,
        **{f"{maps}.{key}": value for key, value in mlp.state_dict().items()},
    }
    return {key: value.detach().clone() for key, value in state.items()}, rows


def pairs_of(rows, layers, heads):
    """What these libraries' ``get_prompt`` makes of rows: for each layer keys and values (1, G, P, D)."""
    whole = rows.view(1, len(rows), layers * 2, heads, -1).permute(2, 0, 3, 1, 4).split(2)
    return [(part[0], part[1]) for part in whole]


@torch.no_grad()
def logits_behind(base, pairs, ids):
    cache = tr.DynamicCache(config=base.config)
    for layer, (keys, values) in enumerate(pairs):
        cache.update(keys.expand(len(ids), -1, -1, -1), values.expand(len(ids), -1, -1, -1), layer)
    return base(ids, past_key_values=cache)[0]


def write(path, state):
    path.mkdir()
    save_file(state, path / "prefix.safetensors")
    return path


def paper(path, form):
    torch.manual_seed(0)
    state, rows = embedding_and_mlp("wte", "control_trans", 3 * 2 * 44)
    if form == "flat":
        state = {"control_trans": rows.flatten().clone()}
    if form == "words":
        state = {"control_trans": torch.cat([torch.stack(pair) for pair in pairs_of(rows, 3, 4)]).contiguous()}
    return write(path, state), pairs_of(rows, 3, 4)


@pytest.mark.parametrize("form", ["mlp", "flat", "words"])
@torch.no_grad()
def test_the_papers_prefix_of_gpt2_is_its_cache(form, tmp_path):
    path, pairs = paper(tmp_path / "old", form)
    model, ids = convert.load(path / "prefix.safetensors", tiny.build("gpt2")), tiny.tokens(2, 7)
    torch.testing.assert_close(model(ids).logits, logits_behind(tiny.build("gpt2"), pairs, ids), **CLOSE)
    assert [p.requires_grad for name, p in model.named_parameters() if "prefix_kv" not in name].count(True) == 0
    assert all(p.requires_grad for p in tiny.prefix_parameters(model).values())


def filled(base, parts):
    """A prefix of ours with ``parts``: by role the pairs of its layers."""
    model = prefix_peft.wrap(BASES[base](), P).eval()
    layers = {role: [layer for layer in prefix_layers(model) if layer.site.role == role] for role in parts}
    for role, pairs in parts.items():
        for layer, (keys, values) in zip(layers[role], pairs, strict=True):
            layer.encoder("default").fill(keys[0], values[0])
    return model


@torch.no_grad()
def test_the_papers_prefix_of_bart_is_at_all_three_kinds_of_attention(tmp_path):
    torch.manual_seed(0)
    state, parts = {}, {}
    for role, end in (("decoder", ""), ("encoder", "_enc"), ("cross", "2")):
        more, rows = embedding_and_mlp(f"wte{end}", f"control_trans{end}", 2 * 2 * 44)
        state, parts[role] = state | more, pairs_of(rows, 2, 4)
    model, given = convert.load(write(tmp_path / "old", state), bart(2)), tiny.inputs("bart")
    torch.testing.assert_close(model(**given).logits, filled("bart-2", parts)(**given).logits, **CLOSE)


@pytest.mark.parametrize("projection", [True, False])
@torch.no_grad()
def test_p_tuning_v2_of_bert_is_its_cache(projection, tmp_path):
    torch.manual_seed(0)
    base = tr.BertModel(
        tr.BertConfig(
            hidden_size=44, num_hidden_layers=3, num_attention_heads=4, intermediate_size=31, vocab_size=97,
            initializer_range=0.15,
        )
    ).eval()  # fmt: skip
    name = "prefix_encoder"
    state, rows = embedding_and_mlp(f"{name}.embedding", f"{name}.trans", 3 * 2 * 44)
    state = state if projection else {f"{name}.embedding.weight": rows}
    ids, pairs = tiny.tokens(2, 7), pairs_of(rows, 3, 4)
    expected = logits_behind(base, pairs, ids)
    path = write(tmp_path / "old", state | {"classifier.weight": torch.ones(2, 44)})
    done = convert.convert(path, tmp_path / "new", base)
    assert "classifier.weight" in done.notes[0]
    torch.testing.assert_close(base(ids)[0], base(ids, use_cache=False)[0])
    model = peft.PeftModel.from_pretrained(base, tmp_path / "new").eval()
    torch.testing.assert_close(model(ids)[0], expected, **CLOSE)
    model.unload()
    convert.convert(tmp_path / "new", tmp_path / "back", base, to="p-tuning-v2")
    back = load_file(tmp_path / "back" / "prefix_encoder.safetensors")[f"{name}.embedding.weight"]
    torch.testing.assert_close(back, rows, atol=0 if not projection else 1e-6, rtol=0)


@pytest.mark.parametrize("frozen", [0, 1])
@torch.no_grad()
def test_a_cartridge_of_hazy_research_is_its_cache(frozen, tmp_path):
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, 1, 2, P, 14)
    state = {"trainable_keys": keys[:, :, :, frozen:], "trainable_values": values[:, :, :, frozen:]}
    if frozen:
        state |= {"frozen_keys": keys[:, :, :, :1], "frozen_values": values[:, :, :, :1]}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    path, ids = write(tmp_path / "old", state), tiny.tokens(2, 7)
    expected = logits_behind(tiny.build("llama"), list(zip(keys, values, strict=True)), ids)
    convert.convert(path, tmp_path / "new", tiny.build("llama"))
    model = ours(tmp_path / "new", "llama")
    torch.testing.assert_close(model(ids).logits, expected, **CLOSE)
    assert model.peft_config["default"].num_frozen_tokens == frozen
    convert.convert(tmp_path / "new", tmp_path / "back", tiny.build("llama"), to="cartridges")
    back = load_file(tmp_path / "back" / "cartridge.safetensors")
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor, atol=ROUNDING * tensor.abs().max() * 2**0.5, rtol=0)


def of_adapters(path, model_type, locations, *, flat=False, **settings):
    """A directory as ``save_adapter(..., use_safetensors=True)`` of AdapterHub leaves it, and the rows."""
    path.mkdir()
    state, rows = {}, {}
    for location, width in locations.items():
        name = f"model.prefix_tuning.prefix_tunings.mine.{location}"
        more, rows[location] = embedding_and_mlp(f"{name}.wte", f"{name}.control_trans", width)
        state |= {f"{name}.control_trans": rows[location].flatten()} if flat else more
    save_file({key: value.clone() for key, value in state.items()}, path / "adapter.safetensors")
    config = {"architecture": "prefix_tuning", "flat": flat, "prefix_length": P, "non_linearity": "tanh", **settings}
    whole = {"config": config, "model_type": model_type, "name": "mine", "version": "adapters.1.2.0"}
    (path / CONFIG).write_text(json.dumps(whole))
    return rows


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("base", ["llama", "gpt2", "bart-2"])
@torch.no_grad()
def test_a_prefix_of_adapterhub_leaves_the_text_where_it_is(base, flat, tmp_path):
    torch.manual_seed(0)
    layers, heads, width = {"llama": (3, 2, 28), "gpt2": (3, 4, 44), "bart-2": (2, 4, 44)}[base]
    roles = {"self_prefix": "decoder", "encoder_prefix": "encoder", "cross_prefix": "cross"}
    locations = list(roles)[: 3 if base == "bart-2" else 1]
    rows = of_adapters(tmp_path / "old", base, dict.fromkeys(locations, 2 * layers * width), flat=flat)
    parts = {roles[location]: pairs_of(rows[location], layers, heads) for location in locations}
    given = tiny.inputs("bart" if base == "bart-2" else base)
    convert.convert(tmp_path / "old", tmp_path / "new", BASES[base]())
    model = ours(tmp_path / "new", base)
    torch.testing.assert_close(model(**given).logits, filled(base, parts)(**given).logits, **CLOSE)
    assert model.peft_config["default"].position_mode == "keep"
    if base == "llama":  # beside the text is behind it, for one who is told the text's positions
        places = torch.arange(9)[None]
        cache = tr.DynamicCache(parts["decoder"])
        expected = BASES[base]()(given["input_ids"][:1], past_key_values=cache, position_ids=places).logits
        torch.testing.assert_close(model(given["input_ids"][:1]).logits, expected, **CLOSE)
    convert.convert(tmp_path / "new", tmp_path / "back", BASES[base](), to="adapters")
    convert.convert(tmp_path / "back", tmp_path / "again", BASES[base]())
    one, two = load_file(tmp_path / "new" / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@torch.no_grad()
def test_layers_that_adapterhub_left_out_stay_without(tmp_path):
    of_adapters(tmp_path / "old", "llama", {"self_prefix": 2 * 2 * 28}, leave_out=[1])
    model = convert.load(tmp_path / "old", tiny.build("llama"))
    assert [layer.site.name.split(".")[-2] for layer in prefix_layers(model)] == ["0", "2"]


@pytest.mark.parametrize("base", ["gpt2", "llama", "gemma3", "neox", "cohere", "gpt-oss", "smollm3", "bart-3"])
@torch.no_grad()
def test_a_cache_does_what_the_prefix_does_and_becomes_it_again(base, tmp_path):
    learned = base in ("gpt2", "bart-3")
    sites = ["decoder"] if base == "bart-3" else None
    options = {"position_mode": "shift" if learned else "keep", "sites": sites}
    model = tiny.fill(prefix_peft.wrap(BASES[base](), P, **options)).eval()
    given = tiny.inputs("bart" if base == "bart-3" else "llama")
    expected = model(**given).logits
    cache = convert.to_cache(model, batch_size=2)
    torch.testing.assert_close(BASES[base]()(**given, past_key_values=cache).logits, expected, **CLOSE)
    again = convert.from_cache(BASES[base](), convert.to_cache(model), num_frozen_tokens=1)
    torch.testing.assert_close(again(**given).logits, expected, **CLOSE)
    model.save_pretrained(tmp_path / "new")
    convert.convert(tmp_path / "new", tmp_path / "file", BASES[base](), to="cache")
    convert.convert(tmp_path / "file" / "cache.safetensors", tmp_path / "back", BASES[base]())
    torch.testing.assert_close(ours(tmp_path / "back", base)(**given).logits, expected, **CLOSE)


@torch.no_grad()
def test_text_goes_on_behind_the_cache_as_behind_the_prefix():
    model = tiny.fill(prefix_peft.wrap(tiny.build("llama"), P)).eval()
    ids, options = tiny.tokens(2, 7), {"max_new_tokens": 6, "do_sample": False}
    written = model.generate(input_ids=ids, **options)
    cache, places = convert.to_cache(model, 2), torch.zeros(2, P, dtype=torch.long)
    mask = torch.ones(2, P + 7, dtype=torch.long)
    # generate takes what a cache holds for the beginning of its input
    behind = tiny.build("llama").generate(
        input_ids=torch.cat([places, ids], 1), attention_mask=mask, past_key_values=cache, **options
    )
    assert torch.equal(behind[:, P:], written)


def t5():
    torch.manual_seed(0)
    config = {"d_model": 44, "d_kv": 11, "d_ff": 31, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
    return tr.T5ForConditionalGeneration(tr.T5Config(**config, **tiny.TOKENS)).eval()


def bloom():
    torch.manual_seed(0)
    return tr.BloomForCausalLM(tr.BloomConfig(hidden_size=44, n_layer=3, n_head=4, **tiny.TOKENS)).eval()


def of_peft_for(base):
    def make(path):
        model = base()
        task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
        peft.get_peft_model(model, KINDS["prefix"](task_type=task)).save_pretrained(path)
        return path

    return make


def changed(make, **tensors):
    """The same file with other tensors: functions of what was there, or None to leave one out."""

    def change(path):
        make(path)
        file = next(path.glob("*.safetensors"))
        held = load_file(file)
        for name, function in tensors.items():
            held[name] = function(held)
        save_file({name: tensor.clone() for name, tensor in held.items() if tensor is not None}, file)
        return path

    return change


def told(make, **entries):
    def change(path):
        make(path)
        (path / CONFIG).write_text(json.dumps(json.loads((path / CONFIG).read_text()) | entries))
        return path

    return change


def paper_file(path):
    return paper(path, "mlp")[0]


def infix(path):
    return write(path, embedding_and_mlp("wte", "control_trans", 264)[0] | {"wte2.weight": torch.ones(P, 5)})


def adapters_for(width, **settings):
    def make(path):
        of_adapters(path, "some", {"self_prefix": width}, **settings)
        return path

    return make


def outside(path):
    of_peft_for(BASES["llama"])(path)
    (path / WEIGHTS).rename(path.with_name("elsewhere.safetensors"))
    (path / WEIGHTS).symlink_to(path.with_name("elsewhere.safetensors"))
    return path


LLAMA_FILE = of_peft_for(BASES["llama"])
BASE_OTHER = "made for another base model"
REFUSED = {
    "another base": (LLAMA_FILE, "gpt2", r"'num_attention_heads': 2.*needs.*'num_attention_heads': 4.*" + BASE_OTHER),
    "other layers": (of_peft_for(BASES["bart-2"]), "bart-3", r"'num_layers': 2.*needs.*'num_layers': 3"),
    "peft cannot": (of_peft_for(BASES["bart"]), "bart", r"'num_layers': 2.*needs.*'num_layers': 3"),
    "rows": (
        changed(LLAMA_FILE, prompt_embeddings=lambda held: held["prompt_embeddings"][:, :-1]), "llama",
        r"prompt_embeddings in .* is \(4, 167\), the model needs \(P, 168\): 2 x 3 layers x 2 key/value heads x 14",
    ),
    "length": (told(LLAMA_FILE, num_virtual_tokens=5), "llama", "has 4 rows, its config says num_virtual_tokens=5"),
    "config": (told(LLAMA_FILE, num_layers="3"), "llama", "has num_layers='3', not int"),
    "more weights": (
        changed(LLAMA_FILE, **{"score.weight": lambda held: torch.ones(2)}), "llama", "modules_to_save.*not converted"
    ),
    "nan": (
        changed(LLAMA_FILE, prompt_embeddings=lambda held: held["prompt_embeddings"] / 0), "llama", "NaN or infinity"
    ),
    "a link": (outside, "llama", "leads out of"),
    "t5": (of_peft_for(t5), t5, r"do not do what they do as a cache.*differ by \d.*relative biases"),
    "bloom": (of_peft_for(bloom), bloom, "do not do what they do as a cache"),
    "infix": (infix, "gpt2", "is an infix"),
    "mlp": (
        changed(paper_file, **{"control_trans.2.weight": lambda held: torch.ones(264, 8)}), "gpt2", "not a chain"
    ),
    "paper's bart": (
        lambda path: write(path, embedding_and_mlp("wte_enc", "control_trans_enc", 264)[0]), "gpt2",
        "is for an encoder-decoder, which GPT2LMHeadModel is not",
    ),
    "gates of adapters": (adapters_for(168, use_gating=True), "llama", "gates that the text opens"),
    "t5 of adapters": (adapters_for(264), t5, "neither learned nor rotary positions, but biases"),
    "non_linearity": (adapters_for(168, non_linearity="maxout"), "llama", "'maxout', which is unknown"),
    "cartridge": (
        lambda path: write(path, {f"trainable_{s}": torch.ones(3, 1, 2, P, 13) for s in ("keys", "values")}), "llama",
        r"layer 0 of .* has keys and values \[\(1, 2, 4, 13\).*needs \[\(1, 2, 4, 14\)",
    ),
    "layers of a cache": (
        lambda path: write(path, {f"layers.0.{side}": torch.ones(1, 2, P, 14) for side in ("key", "value")}), "llama",
        "has 1 layers, LlamaForCausalLM has 3",
    ),
    "unknown": (lambda path: write(path, {"some": torch.ones(2)}), "llama", r"no known format; its .* are \['some"),
    "nothing": (lambda path: path, "llama", "does not exist. Fetch"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_the_same_is_refused_and_leaves_no_trace(kind, tmp_path):
    make, base, message = REFUSED[kind]
    model = BASES[base]() if isinstance(base, str) else base()
    names = [name for name, _ in model.named_modules()]
    old = make(tmp_path / "old")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match=re.compile(message, re.S)):
        convert.convert(old, tmp_path / "new", model)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert [name for name, _ in model.named_modules()] == names and all(p.requires_grad for p in model.parameters())


def release(base, **options):
    def make(path):
        model = tiny.fill(prefix_peft.wrap(BASES[base](), P, **options))
        model.save_pretrained(path)
        return path

    return make


NOT_WRITTEN = {
    "gate": (release("llama", gate=True), "llama", "cache", "has no place for the gate"),
    "lengths": (
        release("llama", num_virtual_tokens_pattern={r"\.1\.": 3}), "llama", "peft", r"one length.*\[3, 4\]"
    ),
    "encoder": (release("bart-2"), "bart-2", "peft", r"decoder's self-attention.*has 4 other sites"),
    "a layer": (release("llama", layers_to_transform=[0, 1]), "llama", "cache", r"lacks model.layers.2.self_attn"),
    "a layer of adapters": (release("llama", layers_to_transform=[0]), "llama", "adapters", "this one has 1"),
    "learned": (release("gpt2"), "gpt2", "cache", "text at position 0 of a table of learned positions"),
    "shifted": (release("gpt2", position_mode="shift"), "gpt2", "adapters", "begins at position 4 of a table"),
    "twins": (
        release("bart-2", sites=["decoder"], position_mode="shift"), "bart-2", "peft",
        "decoder layers 1 and 0 of 2 the same prefix, and this one has two",
    ),
    "relative": (release("t5", sites=["decoder"]), "t5", "cache", "do not do what they do as a cache"),
    "original": (release("gpt2"), "gpt2", "original", "no file of the format 'original' is written"),
    "same": (release("gpt2"), "gpt2", "prefix-peft", "is of the format 'prefix-peft' already"),
    "name": (release("gpt2"), "gpt2", "gguf", "unknown format 'gguf'; choose from"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_WRITTEN)
def test_what_a_format_cannot_hold_is_not_written(kind, tmp_path):
    make, base, to, message = NOT_WRITTEN[kind]
    model = BASES[base]()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=re.compile(message, re.S)):
        convert.convert(make(tmp_path / "old"), tmp_path / "new", model, to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert [name for name, _ in model.named_modules()] == names and all(p.requires_grad for p in model.parameters())


def test_a_wrapped_model_and_an_old_directory_are_refused(tmp_path):
    release("llama")(tmp_path / "old")
    model = BASES["llama"]()
    for taken in (tmp_path / "old", tmp_path / "none" / "new"):
        with pytest.raises(ValueError, match="must be a new directory in one that exists"):
            convert.convert(tmp_path / "old", taken, model, to="cache")
    with pytest.raises(ValueError, match="is a PeftModel already"):
        convert.load(tmp_path / "old", prefix_peft.wrap(model, 3))
    with pytest.raises(ValueError, match="is already PrefixTuning"):
        convert.register_format("peft")(convert.Format)
    with pytest.raises(ValueError, match=r"\(2, 2, 4, 14\).*one row"):
        cache = [(torch.ones(2, 2, P, 14),) * 2] * 3
        convert.from_cache(BASES["llama"](), cache)


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def fail(tensors, path, **more):
        path.write_bytes(b"half")
        raise OSError("no space left")

    release("llama")(tmp_path / "old")
    monkeypatch.setattr(convert.kv_cache, "save_file", fail)
    model = BASES["llama"]()
    with pytest.raises(OSError, match="no space left"):
        convert.convert(tmp_path / "old", tmp_path / "new", model, to="cache")
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and not prefix_layers(model)


def test_models_that_stretch_their_positions_are_told_of(tmp_path):
    model = small("Llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    done = convert.convert(LLAMA_FILE(tmp_path / "old"), tmp_path / "new", model)
    assert "more than 128 tokens (dynamic)" in done.notes[0]


class Trap:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize("inside", [True, False])
def test_a_pickle_is_not_opened(inside, tmp_path):
    (tmp_path / "old").mkdir()
    torch.save(Trap(tmp_path / "opened"), tmp_path / "old" / "pytorch_model.bin")
    path = tmp_path / "old" if inside else tmp_path / "old" / "pytorch_model.bin"
    with pytest.raises(ValueError, match=r"(?s)pytorch_model.bin would be a pickle.*two lines"):
        convert.load(path, BASES["gpt2"]())
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("what", ["original", "cartridges"])
@torch.no_grad()
def test_the_two_lines_of_the_refusal_make_a_file_that_is_read(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    if what == "original":
        base, (state, rows) = "gpt2", embedding_and_mlp("wte", "control_trans", 264)
        pairs = pairs_of(rows, 3, 4)
    else:
        base, pairs = "llama", list(zip(*torch.randn(2, 3, 1, 2, P, 14), strict=True))
        lists = [nn.ParameterList([nn.Parameter(pair[side].clone()) for pair in pairs]) for side in (0, 1)]
        state = dict(zip(("trainable_keys", "trainable_values"), lists, strict=True)) | {"frozen_keys": []}
    torch.save(state, "old.pt")
    with pytest.raises(ValueError) as refusal:
        convert.load("old.pt", BASES[base]())
    lines = [line.strip() for line in str(refusal.value).splitlines()[-2:]]
    exec("import torch, safetensors.torch\n" + "\n".join(lines))
    ids = tiny.tokens(2, 7)
    expected = logits_behind(BASES[base](), pairs, ids)
    torch.testing.assert_close(convert.load("prefix.safetensors", BASES[base]())(ids).logits, expected, **CLOSE)


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "converting.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = tiny.build("llama")
    base.save_pretrained("base")
    tiny.tokenizer().save_pretrained("base")
    peft.get_peft_model(tiny.build("llama"), KINDS["prefix"](task_type="CAUSAL_LM")).save_pretrained("their-prefix")
    capsys.readouterr()
    for command in COMMANDS:
        assert main(shlex.split(command)[1:]) == 0, command
    assert "their-prefix (peft) is now my-prefix (prefix-peft)" in capsys.readouterr().out
    for code in PYTHON:
        exec(code, {})
    assert main(["convert", "their-prefix", "my-prefix", "--model", "base"]) == 2
    assert "must be a new directory" in capsys.readouterr().err
    for name in convert.FORMATS:
        assert f"`{name}`" in PAGE, name
