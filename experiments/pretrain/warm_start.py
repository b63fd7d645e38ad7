"""An encoder-decoder that starts as a language model (Rothe et al. 2020, "Leveraging Pre-trained Checkpoints").

Blenderbot's blocks are GPT-2's: norm before each part, one more after the last, learned positions. So GPT-2's weights
are its decoder as they are, and its encoder too, which reads both ways. Cross-attention starts as self-attention with
an output of 0: before training the decoder writes what GPT-2 would, whatever the encoder reads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration, GenerationConfig, GPT2LMHeadModel

LAYER_NORM_EPSILON = 1e-5  # torch's, which Blenderbot's norms have


@torch.no_grad()
def warm_start(
    decoder: GPT2LMHeadModel, vocabulary: int, pad_token_id: int, bos_token_id: int, eos_token_id: int
) -> BlenderbotForConditionalGeneration:
    """The encoder-decoder; tokens that ``decoder`` does not have start at the mean of those that it has.

    Raises:
        ValueError: the decoder computes something that Blenderbot cannot, or has more tokens.
    """
    _check(decoder, vocabulary)
    source = decoder.config
    width = source.n_inner or 4 * source.n_embd
    model = BlenderbotForConditionalGeneration(
        BlenderbotConfig(
            vocab_size=vocabulary, d_model=source.n_embd, max_position_embeddings=source.n_positions,
            encoder_layers=source.n_layer, encoder_attention_heads=source.n_head, encoder_ffn_dim=width,
            decoder_layers=source.n_layer, decoder_attention_heads=source.n_head, decoder_ffn_dim=width,
            activation_function=source.activation_function, dropout=0.0, scale_embedding=False,
            pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id,
            decoder_start_token_id=bos_token_id, forced_eos_token_id=None, encoder_no_repeat_ngram_size=0,
        )
    )  # fmt: skip
    model.load_state_dict(model.state_dict() | _weights(decoder, model, pad_token_id))
    model.generation_config = GenerationConfig(
        pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id,
        decoder_start_token_id=bos_token_id,
    )  # fmt: skip
    return model.eval()


def _check(decoder: GPT2LMHeadModel, vocabulary: int) -> None:
    config = decoder.config
    needed = {
        "layer_norm_epsilon": LAYER_NORM_EPSILON, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False, "tie_word_embeddings": True,
    }  # fmt: skip
    for name, value in needed.items():
        if getattr(config, name) != value:
            raise ValueError(f"Blenderbot needs {name}={value!r}, the decoder has {getattr(config, name)!r}.")
    if vocabulary < config.vocab_size:
        raise ValueError(f"the decoder has {config.vocab_size} tokens, got a vocabulary of {vocabulary}.")


def _weights(
    decoder: GPT2LMHeadModel, model: BlenderbotForConditionalGeneration, pad_token_id: int
) -> dict[str, Tensor]:
    gpt2 = decoder.transformer
    known = gpt2.wte.weight
    tokens = known.mean(0).repeat(model.config.vocab_size, 1)
    tokens[: len(known)] = known
    if pad_token_id >= len(known):
        tokens[pad_token_id] = 0
    names = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
    weights = {f"{name}.weight": tokens for name in names}
    for side in ("encoder", "decoder"):
        weights[f"model.{side}.embed_positions.weight"] = gpt2.wpe.weight
        weights |= _named(f"model.{side}.layer_norm", gpt2.ln_f.weight, gpt2.ln_f.bias)
        for number, block in enumerate(gpt2.h):
            weights |= _block(f"model.{side}.layers.{number}", block, crosses=side == "decoder")
    return weights


def _block(name: str, block: torch.nn.Module, crosses: bool) -> dict[str, Tensor]:
    weights = _attention(f"{name}.self_attn", block)
    for theirs, ours in {"self_attn_layer_norm": block.ln_1, "final_layer_norm": block.ln_2}.items():
        weights |= _named(f"{name}.{theirs}", ours.weight, ours.bias)
    for theirs, ours in {"fc1": block.mlp.c_fc, "fc2": block.mlp.c_proj}.items():
        weights |= _named(f"{name}.{theirs}", ours.weight.T, ours.bias)
    if crosses:
        weights |= _attention(f"{name}.encoder_attn", block)
        weights |= {key: 0 * weights[key] for key in weights if ".encoder_attn.out_proj." in key}
        weights |= _named(f"{name}.encoder_attn_layer_norm", block.ln_1.weight, block.ln_1.bias)
    return weights


def _attention(name: str, block: torch.nn.Module) -> dict[str, Tensor]:
    """Conv1D's weights are (in, out), with queries, keys and values beside one another."""
    joint, output = block.attn.c_attn, block.attn.c_proj
    weights = _named(f"{name}.out_proj", output.weight.T, output.bias)
    parts = zip("qkv", joint.weight.T.chunk(3), joint.bias.chunk(3), strict=True)
    for letter, weight, bias in parts:
        weights |= _named(f"{name}.{letter}_proj", weight, bias)
    return weights


def _named(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": weight, f"{name}.bias": bias}
