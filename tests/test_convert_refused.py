"""Conversions that cannot be the same: refused with the reason, and without a trace."""

import json
import re

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
    WEIGHTS,
    P,
    embedding_and_mlp,
    logits_behind,
    of_adapters,
    pairs_of,
    paper,
    small,
    write,
)
from safetensors.torch import load_file, save_file
from torch import nn

import prefix_peft
from prefix_peft import convert
from prefix_peft.layer import prefix_layers


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


def lengths(path):
    one = embedding_and_mlp("wte", "control_trans", 2 * 2 * 44)[0]
    return write(path, one | embedding_and_mlp("wte_enc", "control_trans_enc", 2 * 2 * 44, length=P + 1)[0])


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
    "lengths": (lengths, "bart-2", r"different lengths, \[4, 5\]"),
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
