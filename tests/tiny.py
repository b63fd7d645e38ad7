"""Tiny random models of ten families, built from their configs; all sizes differ, so no transposition goes unseen."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as tr
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedModel

VOCAB, PAD, BOS, EOS = 97, 0, 1, 2
TOKENS = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
# five query heads on one key/value head would be multi-query; these have six on two
LLAMA_LIKE = TOKENS | {
    "hidden_size": 42,
    "intermediate_size": 31,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
BART_LIKE = TOKENS | {
    "d_model": 44,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 29,
    "decoder_ffn_dim": 31,
    "max_position_embeddings": 128,
    "init_std": 0.15,
    "decoder_start_token_id": BOS,
    "forced_eos_token_id": None,
    "forced_bos_token_id": None,
}

CAUSAL: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: tr.GPT2LMHeadModel(
        tr.GPT2Config(n_embd=44, n_layer=3, n_head=4, n_positions=128, initializer_range=0.15, **TOKENS)
    ),
    "llama": lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**LLAMA_LIKE)),
    "qwen3": lambda: tr.Qwen3ForCausalLM(tr.Qwen3Config(**LLAMA_LIKE)),
    "mistral": lambda: tr.MistralForCausalLM(tr.MistralConfig(**LLAMA_LIKE, sliding_window=64)),
    "gemma3": lambda: tr.Gemma3ForCausalLM(
        tr.Gemma3TextConfig(
            **LLAMA_LIKE, sliding_window=64, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
        )
    ),
    "opt": lambda: tr.OPTForCausalLM(
        tr.OPTConfig(
            hidden_size=44,
            word_embed_proj_dim=44,
            ffn_dim=31,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=128,
            init_std=0.15,
            **TOKENS,
        )
    ),
}
SEQ2SEQ: dict[str, Callable[[], PreTrainedModel]] = {
    "bart": lambda: tr.BartForConditionalGeneration(tr.BartConfig(**BART_LIKE)),
    "mbart": lambda: tr.MBartForConditionalGeneration(tr.MBartConfig(**BART_LIKE)),
    "marian": lambda: tr.MarianMTModel(tr.MarianConfig(**BART_LIKE)),
    "t5": lambda: tr.T5ForConditionalGeneration(
        tr.T5Config(
            d_model=44,
            d_kv=13,
            d_ff=31,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=4,
            initializer_factor=1.0,
            decoder_start_token_id=PAD,
            **TOKENS,
        )
    ),
}
FAMILIES = CAUSAL | SEQ2SEQ


def build(family: str, seed: int = 0, attn_implementation: str | None = None, **config: object) -> PreTrainedModel:
    """A tiny float32 model in eval mode whose tokens are distinct and which never stops early."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.4)
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=None, decoder_start_token_id=BOS
    )
    for key, value in config.items():
        setattr(model.config, key, value)
    if attn_implementation is not None:
        model.set_attn_implementation(attn_implementation)
    return model.eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random ordinary tokens."""
    return torch.randint(5, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def inputs(family: str, batch: int = 2, length: int = 9) -> dict[str, torch.Tensor]:
    """What this family's forward pass needs."""
    if family in CAUSAL:
        return {"input_ids": tokens(batch, length)}
    return {"input_ids": tokens(batch, length), "decoder_input_ids": tokens(batch, length - 2, seed=1)}


def tokenizer() -> tr.PreTrainedTokenizerFast:
    """Reads "t7 t8" as tokens 7 and 8."""
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t3"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": f"t{PAD}", "bos_token": f"t{BOS}", "eos_token": f"t{EOS}", "unk_token": "t3"}
    return tr.PreTrainedTokenizerFast(tokenizer_object=words, **special)


def fill(model: torch.nn.Module, seed: int = 3, std: float = 0.7) -> torch.nn.Module:
    """Give every prefix parameter a content that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "prefix_kv_encoder" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def prefix_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if "prefix_kv_encoder" in name}


def fill_adapter(model: torch.nn.Module, adapter: str, seed: int, std: float = 0.7) -> None:
    """The same for one adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in prefix_parameters(model).items():
            if f".{adapter}." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
