"""Prefixes of other libraries: what their own code computes, there and back."""

import json
import re
import shlex
from pathlib import Path

import peft
import pytest
import tiny
import torch
import transformers as tr
from foreign import (
    BASES,
    CLOSE,
    CONFIG,
    KINDS,
    ROUNDING,
    WEIGHTS,
    P,
    bart,
    by_peft,
    check_same,
    embedding_and_mlp,
    filled,
    logits_behind,
    of_adapters,
    ours,
    padded,
    pairs_of,
    paper,
    write,
)
from safetensors.torch import load_file

import prefix_peft
from prefix_peft import convert
from prefix_peft.__main__ import main
from prefix_peft.layer import prefix_layers

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


@pytest.mark.parametrize("form", ["mlp", "flat", "words"])
@torch.no_grad()
def test_the_papers_prefix_of_gpt2_is_its_cache(form, tmp_path):
    path, pairs = paper(tmp_path / "old", form)
    model, ids = convert.load(path / "prefix.safetensors", tiny.build("gpt2")), tiny.tokens(2, 7)
    torch.testing.assert_close(model(ids).logits, logits_behind(tiny.build("gpt2"), pairs, ids), **CLOSE)
    assert [p.requires_grad for name, p in model.named_parameters() if "prefix_kv" not in name].count(True) == 0
    assert all(p.requires_grad for p in tiny.prefix_parameters(model).values())


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
