"""Tiny random models that see or hear, built from their configs, and inputs for them."""

from __future__ import annotations

import torch
import transformers as tr
from tiny import BOS, PAD, TOKENS, VOCAB
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

IMAGE = 90  # the token in whose place a piece of the image is read
TEXT = TOKENS | {
    "hidden_size": 48,
    "intermediate_size": 31,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SPEECH = TOKENS | {
    "d_model": 44,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 29,
    "decoder_ffn_dim": 31,
    "max_target_positions": 64,
    "decoder_start_token_id": BOS,
    "init_std": 0.15,
}


def llava() -> PreTrainedModel:
    vision = tr.CLIPVisionConfig(**VISION, projection_dim=24)
    config = tr.LlavaConfig(
        vision_config=vision, text_config=tr.LlamaConfig(**TEXT), image_token_index=IMAGE, vision_feature_layer=-1
    )
    return tr.LlavaForConditionalGeneration(config)


def qwen2_5_vl() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}  # of time, height and width
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 37, "num_heads": 2, "patch_size": 4} | {
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 48, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = tr.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE, video_token_id=91,
        vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    return tr.Qwen2_5_VLForConditionalGeneration(config)


def gemma3() -> PreTrainedModel:
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    text = tr.Gemma3TextConfig(**TEXT, sliding_window=64, layer_types=layers)
    vision = tr.SiglipVisionConfig(**VISION, vision_use_head=False)
    config = tr.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=91,
        eoi_token_index=92,
    )
    model = tr.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # made as zeros
    return model


def idefics3() -> PreTrainedModel:
    config = tr.Idefics3Config(
        text_config=tr.LlamaConfig(**TEXT), vision_config=VISION, scale_factor=2, image_token_id=IMAGE, pad_token_id=PAD
    )
    return tr.Idefics3ForConditionalGeneration(config)


def whisper() -> PreTrainedModel:
    return tr.WhisperForConditionalGeneration(
        tr.WhisperConfig(
            **SPEECH, num_mel_bins=7, max_source_positions=20, begin_suppress_tokens=None, suppress_tokens=None
        )
    )


def speech_to_text() -> PreTrainedModel:
    convolutions = {"num_conv_layers": 2, "conv_kernel_sizes": (3, 3), "conv_channels": 12}
    config = tr.Speech2TextConfig(**SPEECH, **convolutions, input_feat_per_channel=7, max_source_positions=100)
    return tr.Speech2TextForConditionalGeneration(config)


def moonshine() -> PreTrainedModel:
    layers = {f"{side}_num_hidden_layers": 2 for side in ("encoder", "decoder")}
    heads = {f"{side}_num_attention_heads": 4 for side in ("encoder", "decoder")}
    sizes = {"hidden_size": 48, "intermediate_size": 31, "initializer_range": 0.15, "decoder_start_token_id": BOS}
    return tr.MoonshineForConditionalGeneration(tr.MoonshineConfig(**TOKENS, **sizes, **layers, **heads))


def _decoder() -> tr.GPT2Config:
    return tr.GPT2Config(
        n_embd=44, n_layer=2, n_head=4, n_positions=64, add_cross_attention=True, is_decoder=True, **TOKENS
    )


def wav2vec2_gpt2() -> PreTrainedModel:
    encoder = tr.Wav2Vec2Config(
        hidden_size=44, num_hidden_layers=2, num_attention_heads=4, intermediate_size=31, conv_dim=(8, 8),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    config = tr.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, _decoder())
    config.decoder_start_token_id, config.pad_token_id = BOS, PAD
    return tr.SpeechEncoderDecoderModel(config)


def vit_gpt2() -> PreTrainedModel:
    config = tr.VisionEncoderDecoderConfig.from_encoder_decoder_configs(tr.ViTConfig(**VISION), _decoder())
    config.decoder_start_token_id, config.pad_token_id = BOS, PAD
    return tr.VisionEncoderDecoderModel(config)


SEEING = {f.__name__: f for f in (llava, qwen2_5_vl, gemma3, idefics3)}
HEARING = {f.__name__: f for f in (whisper, speech_to_text, moonshine, wav2vec2_gpt2, vit_gpt2)}
PIECES = {"llava": 4, "qwen2_5_vl": 4, "gemma3": 4, "idefics3": 1}  # image tokens to an image
KINDS = {"gemma3": "token_type_ids", "qwen2_5_vl": "mm_token_type_ids"}  # the input that tells image from text
SOURCES = {  # the main input of each encoder
    "whisper": ("input_features", (2, 7, 40)),
    "speech_to_text": ("input_features", (2, 30, 7)),
    "moonshine": ("input_values", (2, 3000)),
    "wav2vec2_gpt2": ("inputs", (2, 300)),
    "vit_gpt2": ("pixel_values", (2, 3, 16, 16)),
}


def build(family: str, **changes: object) -> PreTrainedModel:
    """A tiny float32 model in eval mode whose tokens are distinct and which never stops early."""
    torch.manual_seed(0)
    model = (SEEING | HEARING)[family]()
    for key, value in changes.items():
        setattr(model.config, key, value)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.4)
    tokens = {"pad_token_id": PAD, "bos_token_id": BOS, "decoder_start_token_id": BOS}
    model.generation_config = GenerationConfig(eos_token_id=None, **tokens)
    return model.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Sound or pixels."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image_and_text(family: str, before: Tensor | None = None, after: Tensor | None = None, seed: int = 0) -> dict:
    """One image between a few words; ``before`` and ``after`` (1, N) are more words at the ends."""
    image = [92, *[IMAGE] * PIECES[family], 93] if family == "qwen2_5_vl" else [IMAGE] * PIECES[family]
    ids = torch.tensor([[5, 6, *image, 7, 8, 9]])
    ids = torch.cat([part for part in (before, ids, after) if part is not None], dim=1)
    given = {"input_ids": ids, "pixel_values": noise(1, 3, 16, 16, seed=seed)}
    if family == "idefics3":
        given["pixel_values"] = given["pixel_values"][None]
    if family == "qwen2_5_vl":  # 4 x 4 patches of 4 x 4 pixels, twice in time
        given |= {"pixel_values": noise(16, 3 * 2 * 4 * 4, seed=seed), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    if family in KINDS:
        given[KINDS[family]] = (ids == IMAGE).long()
    return given


def source_and_text(family: str) -> dict[str, Tensor]:
    """Two rows of sound or pixels, and of what was decoded so far."""
    name, shape = SOURCES[family]
    decoded = torch.randint(5, VOCAB, (2, 5), generator=torch.Generator().manual_seed(1))
    return {name: noise(*shape), "decoder_input_ids": decoded}
