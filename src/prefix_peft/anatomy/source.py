"""What the encoder of an encoder-decoder reads where that is not tokens: sound or pixels.

The shape is asked of the model as well. The first layer with weights tells how wide the input is, and whether the
encoder takes it is seen by running it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import nn
from transformers import PreTrainedModel

from ..hook import Call, calling, no_attention
from .trial import is_encoder_decoder

Shape = tuple[int, ...]

FRAMES, SAMPLES, PIXELS = 64, 8_000, 224  # small, but more than any first layer needs


def reads_tokens(model: PreTrainedModel) -> bool:
    """Whether ``model``, or its encoder where it has one, needs ``input_ids`` and nothing else."""
    return getattr(model, "main_input_name", "input_ids") == "input_ids"


def example_shape(model: PreTrainedModel) -> tuple[Shape, int]:
    """The shape of one input that the encoder of ``model`` accepts, and how many states (1, S, D) it makes of it.

    Raises:
        ValueError: there is no encoder apart, or it accepts none of the shapes that its first layer suggests.
    """
    if not is_encoder_decoder(model):
        raise ValueError(
            f"{type(model).__name__} cannot be served: it reads {model.main_input_name}. Served are models that read "
            "input_ids, and encoder-decoders whatever their encoder reads."
        )
    encoder = model.get_encoder()
    for shape in _candidates(encoder):
        try:
            with calling(Call(watcher=no_attention)):
                states = encoder(torch.zeros(shape, dtype=encoder.dtype, device=encoder.device))[0]
        except (ValueError, RuntimeError):  # what a layer says of an input that does not fit it
            continue
        return shape, states.shape[1]
    raise ValueError(
        f"{type(model).__name__} cannot be served: its encoder reads {model.main_input_name}, and accepts none of the "
        f"shapes {list(_candidates(encoder))} that its first layer suggests."
    )


def _candidates(encoder: PreTrainedModel) -> Iterator[Shape]:
    """Waveforms (1, T), images (1, C, H, W), or frames (1, F, T) and (1, T, F); the longest allowed comes last."""
    layers = list(encoder.modules())
    front = next(layer for layer in layers if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)))
    if isinstance(front, nn.Conv2d):
        size = getattr(encoder.config, "image_size", PIXELS)
        yield (1, front.in_channels, *(size if isinstance(size, (list, tuple)) else (size, size)))
        return
    width = front.in_features if isinstance(front, nn.Linear) else front.in_channels
    if width == 1:
        yield (1, SAMPLES)
        return
    lengths = [FRAMES]
    if hasattr(encoder.config, "max_source_positions"):  # what Whisper insists on
        strides = [layer.stride[0] for layer in layers if isinstance(layer, nn.Conv1d)]
        lengths.append(prod(strides) * encoder.config.max_source_positions)
    for length in lengths:
        yield from ((1, width, length), (1, length, width))
