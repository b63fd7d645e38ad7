"""What some families need besides tiny sizes, and the entries that no model can be built or run for."""

from __future__ import annotations

from collections.abc import Callable

import transformers
from sizes import BOS, HEAD_DIM, HEADS, INNER, POSITIONS, VOCAB, WIDTH, WINDOW, Fields, shrink
from transformers import PretrainedConfig

DROP = ...  # in the place of a value: leave this field at its default

ATTENTION_FREE = ("falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")
NOT_BUILT = {
    ("seq2seq", "voxtral_realtime"): "adds audio to its text embeddings at every step, so it has no text-only call",
    ("causal", "gemma4_assistant"): "a draft model: reads the keys and values of the model that it drafts for",
    ("causal", "gemma4_unified_assistant"): "a draft model: reads the keys and values of the model that it drafts for",
}

# Attention computed by hand, out of reach of any watching, that no prefix of real tokens can be equal to.
ALIBI = "ALiBi adds to each score by the distance of the two tokens, and a prefix has no place"
RELATIVE = "a learned bias for the distance of two tokens is added to each score, and a prefix has no place"
HASHED = "each query sees the few keys that hash or stand near it, real tokens only if they are among them"
NEVER_EXACT = {
    "bloom": ALIBI,
    "mpt": ALIBI,
    "cpmant": RELATIVE,
    "prophetnet": RELATIVE,
    "xlnet": RELATIVE,
    "reformer": HASHED,
}

# Encoders, and decoders of encoder-decoders, that are causal and have a cache only when they are told so.
TOLD_TO_DECODE = [
    "bart",
    "bert",
    "bert-generation",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "marian",
    "mbart",
    "megatron-bert",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "trocr",
    "whisper",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
]

# The auto mapping leads to a class for a part of the config: (config class, model class).
PART_OF_A_MODEL = {
    "musicgen": ("MusicgenDecoderConfig", "MusicgenForCausalLM"),
    "musicgen_melody": ("MusicgenMelodyDecoderConfig", "MusicgenMelodyForCausalLM"),
}

# Each kind of layer twice.
LINEAR_AND_FULL = ["linear_attention", "full_attention"] * 2
SLIDING_AND_FULL = ["sliding_attention", "full_attention"] * 2
CONV_AND_FULL = ["conv", "full_attention"] * 2
ONE_DENSE = ["dense", "sparse", "sparse", "sparse"]

MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1}  # heads x width = twice the model's width
GEMMA4 = {
    "layer_types": SLIDING_AND_FULL,
    "num_hidden_layers": 4,
    "head_dim": HEAD_DIM,
    "global_head_dim": 2 * HEAD_DIM,
    "per_layer_config": DROP,
    "use_bidirectional_attention": DROP,
}

# By model type, wherever a config of this type stands, also inside another.
FIELDS: dict[str, Fields] = {
    # state-space and convolutional hybrids: which of four layers attend, and state sizes that divide the width
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3], **MAMBA2},
    "falcon_h1": {"mamba_d_ssm": WIDTH, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1},
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": LINEAR_AND_FULL, **MAMBA2},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "lfm2": {
        "num_hidden_layers": 4,
        "layer_types": CONV_AND_FULL,
        "full_attn_idxs": None,
        "block_multiple_of": 8,
    },
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": CONV_AND_FULL, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "minimax": {"block_size": 8},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "num_hidden_layers": DROP,
        "chunk_size": 8,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2,
        "intermediate_size": INNER,
    },
    "qwen3_5_text": {"num_hidden_layers": 4, "layer_types": LINEAR_AND_FULL},
    "recurrent_gemma": {"num_hidden_layers": 6},
    "xlstm": {
        "num_blocks": 2,
        "num_hidden_layers": 2,
        "hidden_size": WIDTH,
        "embedding_dim": WIDTH,
        "num_heads": HEADS,
        "chunk_size": 8,
        "qk_dim_factor": 1.0,
    },
    "zaya": {"num_hidden_layers": 4, "layer_types": ["hybrid", "hybrid_sliding"] * 2, "sliding_window": WINDOW},
    # kinds of layers that the defaults do not list, or not in a short model
    "cohere_compass_text": {
        "num_hidden_layers": 4,
        "layer_types": SLIDING_AND_FULL,
        "logit_scale": 1.0,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": None,
        },
    },
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "dots3_note_text": {
        "per_layer_config": DROP,
        "head_dim": 24,
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "num_hidden_layers": 4,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 32,
        "swa_qk_nope_head_dim": 24,
        "swa_v_head_dim": 16,
        "rope_parameters": DROP,
        "mlp_layer_types": ONE_DENSE,
    },
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": SLIDING_AND_FULL,
        "intermediate_size": INNER,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "num_kv_shared_layers": 2,
    },
    "gemma4_text": {**GEMMA4, "num_kv_shared_layers": 0},
    "gemma4_unified_text": GEMMA4,
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "intermediate_size": INNER},
    "hrm_text": {"num_hidden_layers": 2, "num_layers_per_stack": DROP, "H_cycles": 2, "L_cycles": 2},
    "laguna": {
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "sliding_window": WINDOW,
        "num_attention_heads_per_layer": [4, 8, 4, 8],
        "mlp_layer_types": ONE_DENSE,
    },
    "mellum": {
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "mlp_layer_types": ["sparse"] * 4,
    },
    "minimax_m3_vl_text": {
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "rotary_dim": 16,
        "index_block_size": 4,
        "index_topk_blocks": 16,
        "mlp_layer_types": ONE_DENSE,
    },
    "ministral": {"head_dim": HEAD_DIM, "layer_types": ["sliding_attention", "full_attention"]},
    "mllama_text_model": {"num_hidden_layers": 4, "cross_attention_layers": [1, 3]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 48],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
        "hash_seed": 0,
        "attention_head_size": HEAD_DIM,
    },
    # widths that are derived in the family's own way
    "big_bird": {"is_decoder": True, "attention_type": "original_full"},  # blocks are for thousands of tokens
    "codegen": {"rotary_dim": 8},
    "deepseek_v4": {"head_dim": 32, "o_groups": 2, "o_lora_rank": 16, "q_lora_rank": 24, "hc_mult": 2},
    "gptj": {"rotary_dim": 8},
    "hunyuan_v1_dense": {"head_dim": HEAD_DIM},
    "hunyuan_v1_moe": {"head_dim": HEAD_DIM, "num_experts": 4, "moe_topk": 2},
    "led": {"attention_window": 8},
    "longcat_flash": {"zero_expert_num": 2},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": HEADS,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 32,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 8,
        "ple_embed_dim": DROP,
        "ngram_vocab_size_base": 128,
        "split_ngram_parts": 2,
    },
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 4, "depths": [1] * 7},
    # logits that are scaled down until the tokens of a tiny model are as good as equal
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "cohere2_moe": {"logit_scale": 1.0},
    "inkling_text": {"logits_mup_width_multiplier": 1.0},
    # switches
    "nemotron3_5_transcribe_word_timestamp": {"blank_token_id": VOCAB - 1},
    "xlm": {"causal": True},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
}

# Towers that text never enters, with sizes that only fit their defaults.
LEFT_LARGE = {
    "dots3_note_vision_encoder": {"adapter_out_dim": WIDTH},
    "dots3_note_audio_encoder": {"adapter_out_dim": WIDTH},
}


def nemo_audio(config: PretrainedConfig) -> Fields:
    """The tower's configs are made inside it, so they are made small from outside."""
    for part in (config.asr_config, config.diarization_config.audio_config):
        part.hidden_size, part.intermediate_size, part.num_hidden_layers = WIDTH, INNER, 2
        part.num_attention_heads = part.num_key_value_heads = HEADS
        part.max_position_embeddings = POSITIONS
    config.diarization_config.head_config.audio_hidden_size = WIDTH
    config.diarization_config.head_config.hidden_size = 32
    return {"asr_config": config.asr_config, "diarization_config": config.diarization_config}


def dbrx(fields: Fields) -> Fields:
    """Its attention config has no ``rope_theta``, and the default ``clip_qkv`` of None is not what the model takes."""
    attention, experts = fields["attn_config"], fields["ffn_config"]
    attention.rope_theta, attention.kv_n_heads, attention.clip_qkv = 10000.0, 2, 8.0
    experts.hidden_size, experts.moe_top_k = WIDTH, 2
    return fields | {"num_key_value_heads": 2}


def blt(fields: Fields) -> Fields:
    """Four models in one, of bytes and of patches of bytes; the global one is twice as wide as the others."""
    for name in ("patcher_config", "encoder_config", "decoder_config", "global_config"):
        part, times = fields[name], 2 if name == "global_config" else 1
        part.hidden_size, part.head_dim, part.hidden_size_global = times * WIDTH, times * HEAD_DIM, 2 * WIDTH
        part.num_attention_heads = part.num_key_value_heads = HEADS
        part.num_hidden_layers = 2
        if name != "global_config":
            part.vocab_size = 260  # bytes, and four marks
    # the number of layers is what the cache asks for, and the config does not have it
    return fields | {"encoder_hash_byte_group_vocab": 503, "vocab_size": 260, "num_hidden_layers": 2}


def encoder_decoder(fields: Fields) -> Fields:
    """Any encoder with any decoder; the latter has to be told to look at the former."""
    fields["decoder"].is_decoder = fields["decoder"].add_cross_attention = True
    return fields | {"decoder_start_token_id": BOS}


def music_decoder(config_class: str) -> PretrainedConfig:
    """One codebook, so that its tokens are a text like any other."""
    cls = getattr(transformers, config_class)
    one_codebook = {"num_codebooks": 1, "vocab_size": VOCAB, "is_decoder": True, "audio_channels": 1}
    return cls(**shrink(cls()) | one_codebook)


ENTRIES: dict[str, Callable[[Fields], Fields]] = {"dbrx": dbrx, "blt": blt, "encoder-decoder": encoder_decoder}
