"""Tiny sizes: what the fields of a config become, whatever its family calls them."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

VOCAB, PAD, BOS, EOS = 99, 0, 1, 2
WIDTH, HEADS, HEAD_DIM, INNER, LAYERS = 64, 4, 16, 96, 2
POSITIONS, WINDOW, EXPERTS = 256, 64, 4
INIT = 0.15  # wide enough that the tokens of a random model differ

Fields = dict[str, Any]


def words(text: str) -> list[str]:
    """Names, one after the other."""
    return text.split()


# Numbers that become the same in every family: (what they become, under which names).
NUMBERS: list[tuple[int, str]] = [
    (
        WIDTH,
        "hidden_size d_model n_embd emb_dim embedding_size embedding_dim lru_width word_embed_proj_dim embed_dim "
        "input_embedding_size output_embedding_size pronunciation_embed_dim shape_embed_dim output_hidden_size d_embed "
        "out_hidden_size projection_dim encoder_hidden_size output_dim out_dim vision_output_dim",
    ),
    (
        INNER,
        "intermediate_size ffn_dim d_ff dff dim_ff encoder_ffn_dim decoder_ffn_dim d_inner ffn_hidden_size hidden_dim "
        "feed_forward_size prefix_dense_intermediate_size dense_intermediate_size intermediate_size_mlp mlp_dim "
        "t2u_encoder_ffn_dim t2u_decoder_ffn_dim speech_encoder_intermediate_size",
    ),
    (
        LAYERS,
        "encoder_layers decoder_layers num_decoder_layers num_encoder_layers t2u_encoder_layers t2u_decoder_layers "
        "speech_encoder_layers depth num_global_layers num_layers_per_stack",
    ),
    (
        HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
        "num_encoder_attention_heads num_decoder_attention_heads t2u_encoder_attention_heads "
        "t2u_decoder_attention_heads speech_encoder_attention_heads swa_num_attention_heads linear_num_heads "
        "num_query_groups",
    ),
    (
        POSITIONS,
        "max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length max_source_positions "
        "max_target_positions max_encoder_position_embeddings max_decoder_position_embeddings max_text_positions "
        "t2u_max_position_embeddings rel_extent",
    ),
]
DEPTHS = words("num_hidden_layers n_layer n_layers num_layers")
EXPERT_WIDTHS = words(
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size shared_experts_intermediate_size "
    "expert_ffn_hidden_size moe_shared_expert_intermediate_size"
)
KEY_VALUE_HEADS = {
    "num_key_value_heads": "num_attention_heads",
    "num_kv_heads": "num_attention_heads",
    "swa_num_key_value_heads": "swa_num_attention_heads",
}
EXPERT_COUNTS = words("num_experts num_local_experts n_routed_experts moe_num_experts ffn_num_experts")
EXPERTS_CHOSEN = words("num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts")
AT_MOST_ONE = words("n_shared_experts num_shared_experts moe_num_shared_experts first_k_dense_replace num_dense_layers")
SPREADS = words("initializer_range init_std embedding_initializer_range embed_init_std")
HEAD_COUNTS = words("num_attention_heads n_heads n_head num_heads")
LATENT_DIMS = words("qk_nope_head_dim qk_rope_head_dim v_head_dim index_head_dim")  # an eighth of their default
WINDOWS = words(
    "sliding_window sliding_window_size attention_window_size window_size attention_chunk_size local_attention"
)
KINDS = words("layer_types layers_block_type mlp_layer_types indexer_types")  # one word a layer
SPECIAL_TOKENS = words(
    "image_token_id video_token_id audio_token_id image_token_index audio_token_index boi_token_id eoi_token_id "
    "boa_token_id eoa_token_id boi_token_index eoi_token_index eoa_token_index vision_start_token_id "
    "vision_end_token_id audio_bos_token_id audio_eos_token_id eod_token_id timestamp_token_id cls_token_id "
    "mask_token_id"
)
RESERVED = 12  # the last tokens of the vocabulary, which are never text

TOKEN_FIELDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": BOS}
VALUES: Fields = {
    **dict.fromkeys(words("vocab_size decoder_vocab_size src_vocab_size tgt_vocab_size"), VOCAB),
    **dict.fromkeys(words("vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(words("t2u_vocab_size char_vocab_size unit_hifi_gan_vocab_size"), 50),
    **dict.fromkeys(words("d_kv d_head dim_head attention_head_size kv_channels"), HEAD_DIM),
    **dict.fromkeys(words("max_window_layers n_group topk_group num_expert_group num_beams"), 1),
    **dict.fromkeys(words("mamba_d_state state_size ssm_state_size mamba_chunk_size"), 8),
    **dict.fromkeys(words("linear_key_head_dim linear_value_head_dim laurel_rank hidden_size_per_layer_input"), 8),
    **dict.fromkeys(words("mamba_dt_rank time_step_rank linear_num_value_heads"), 4),
    **dict.fromkeys(words("num_nextn_predict_layers encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(words("forced_eos_token_id forced_bos_token_id suppress_tokens begin_suppress_tokens"), None),
    "vocabulary_map": None,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "index_topk": 64,  # sparse attention that picks all there is
    "lambda_std_dev": 0.1,
    "hidden_dropout_prob": 0.0,
    "linear_num_key_heads": 2,
    "linear_head_dim": 16,
    "sep_token_id": 3,
    "image_size": 32,
    "patch_size": 8,
    "max_length": 64,
    "num_codebooks": 2,
    "codebook_size": 32,
    "codebook_dim": 16,
}

NUMBER_OF = {name: number for number, names in NUMBERS for name in names.split()}
# Fields that every config has and that say nothing about a size.
COMMON = set(PretrainedConfig().to_dict()) - {"vocab_size", *TOKEN_FIELDS, "sep_token_id"}


def shrink(default: PretrainedConfig) -> Fields:
    """The fields that make a tiny config of the family of ``default``; nested configs are left to the caller."""
    values = _values(default)
    depth = _depth(values)
    tiny: Fields = {}
    for name, value in values.items():
        if name in default.sub_configs or (name in COMMON and name not in VALUES) or isinstance(value, bool):
            continue
        if name in KINDS and _is_kinds(value):
            tiny[name] = _short(name, value, depth)
        elif name in DEPTHS and isinstance(value, int):
            tiny[name] = depth
        elif name in VALUES or name in TOKEN_FIELDS:
            if value is not None or name in TOKEN_FIELDS:
                tiny[name] = TOKEN_FIELDS.get(name, VALUES.get(name))
        else:
            number = _number(name, value, values)
            if number is not None:
                tiny[name] = number
    return tiny


def _values(config: PretrainedConfig) -> Fields:
    values = config.to_dict()
    for name in values:
        try:
            values[name] = getattr(config, name, None)
        except (
            Exception
        ):  # a field that differs by layer refuses to be read as one; the dictionary has the global value
            continue
    return values


def _number(name: str, value: Any, values: Fields) -> float | None:
    """A tiny number for this field, None to leave it as it is."""
    if isinstance(value, float):
        silent = any(part in name for part in ("dropout", "pdrop", "layerdrop", "jitter"))
        return 0.0 if silent else INIT if name in SPREADS else None
    if isinstance(value, list):
        return INNER if NUMBER_OF.get(name) == INNER else None
    if name in EXPERTS_CHOSEN:
        return 2 if value is None or value > 1 else 1
    return _whole_number(name, value, values) if isinstance(value, int) else None


def _whole_number(name: str, value: int, values: Fields) -> int | None:
    if name in NUMBER_OF:
        return NUMBER_OF[name]
    if name in EXPERT_WIDTHS:
        return 32 if value else 0
    if name in KEY_VALUE_HEADS:
        heads = values.get(KEY_VALUE_HEADS[name]) or _first(values, HEAD_COUNTS) or value
        return 1 if value == 1 else HEADS // 2 if value < heads else HEADS
    if name in ("head_dim", "swa_head_dim"):
        return _head_dim(value, values)
    if name in LATENT_DIMS:
        return max(8, value // 8)
    if name in EXPERT_COUNTS:
        return EXPERTS if value > 1 else value
    if name in AT_MOST_ONE:
        return min(value, 1)
    if name in WINDOWS and value:
        return WINDOW
    if name in SPECIAL_TOKENS:
        return VOCAB - RESERVED + SPECIAL_TOKENS.index(name) % RESERVED
    return None


def _head_dim(value: int, values: Fields) -> int:
    """Heads that are together as wide as the model, wider or narrower, as the family has them."""
    if isinstance(values.get("qk_rope_head_dim"), int):
        return max(8, value // 8)
    heads, width = _first(values, HEAD_COUNTS), _first(values, ["hidden_size", "d_model", "n_embd"])
    if not heads or not width or value * heads == width:
        return HEAD_DIM
    return 2 * HEAD_DIM if value * heads > width else HEAD_DIM // 2


def _first(values: Fields, names: list[str]) -> int | None:
    return next((values[name] for name in names if isinstance(values.get(name), int)), None)


def _is_kinds(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(kind, str) for kind in value)


def _depth(values: Fields) -> int:
    """Two layers of each kind that the family has."""
    kinds = max((len(set(values[name])) for name in KINDS if _is_kinds(values.get(name))), default=1)
    return LAYERS if kinds < 2 else 2 * kinds


def _short(name: str, kinds: list[str], depth: int) -> list[str]:
    """As many layers as ``depth``, of every kind; of feed-forward layers only the first is of the first kind."""
    distinct = list(dict.fromkeys(kinds))
    if name == "mlp_layer_types" and len(distinct) > 1:
        first, *rest = distinct
        return [first, *(rest[i % len(rest)] for i in range(depth - 1))]
    return [distinct[i % len(distinct)] for i in range(depth)]
