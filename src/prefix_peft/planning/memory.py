"""What a request takes: a training step and decoding run on a model without weights, and every byte is counted.

At the peak of a training step M = W + 16 |theta| + A + L. W are the frozen weights. Each trained number is a float32
with its gradient and Adam's two moments. A are the activations: what the backward pass waits for, and what is being
computed. L are the logits and the copies that the loss makes of them. Frozen weights have no gradient and no moments,
and a linear map whose weight is frozen need not keep its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ..attention.tried import try_kernels
from .counting import LiveBytes, bytes_of
from .quantized import quantize
from .request import HALF, Request
from .trial import decode, held, learner, optimizer_of, texts, train_step, with_prefix
from .weightless import Weightless, build

LOGITS = "logits"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, but for ``trained``."""

    trained: int  # |theta|, numbers
    weights: int  # W
    states: int  # 16 |theta|: what is trained, its gradient and moments
    activations: int  # A
    logits: int  # L
    cache: int  # keys and values when the last token is written
    decoding: int  # the peak of decoding
    largest_layer: int  # the weights of the largest block that sharding gathers by itself
    head: int  # the output layer

    @property
    def training(self) -> int:
        """The peak of a training step."""
        return self.weights + self.states + self.activations + self.logits


def count(config: PretrainedConfig, request: Request) -> Memory:
    """What ``request`` takes of a model of this config. Nothing is loaded, and nothing computed.

    Raises:
        ValueError: texts that the model cannot read, or a model that has no place for a prefix.
        NotImplementedError: a model whose shapes depend on its numbers.
    """
    request.check_fits(config)
    for dtype in {request.torch_dtype, HALF.get(request.mixed_precision, request.torch_dtype)}:
        try_kernels("cpu", dtype)  # with numbers, before there are none
    try:
        with Weightless():
            return _count(config, request)
    except (RuntimeError, AssertionError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise NotImplementedError(
            f"{config.model_type} cannot be run without its weights, so what it takes cannot be counted: {reason}"
        ) from error


def _count(config: PretrainedConfig, request: Request) -> Memory:
    model = bare(config, request)
    weights, blocks = bytes_of(tensors_of(model)), [bytes_of(tensors_of(block)) for block in layers(model)]
    learning = learner(model, request)
    optimizer = optimizer_of(learning)
    trained = [parameter for parameter in learning.parameters() if parameter.requires_grad]
    with LiveBytes(partial(kind_of, {len(weight) for weight in head(model)})) as step:
        train_step(learning, texts(model, request), optimizer, request)
    cache, decoding = decoded(model, learning, config, request)
    logits = step.at_peak[LOGITS]
    return Memory(
        trained=sum(parameter.numel() for parameter in trained), weights=weights,
        states=bytes_of(held(learning, optimizer)) - weights,
        activations=step.peak - logits, logits=logits, cache=cache, decoding=decoding,
        largest_layer=max(blocks, default=weights), head=bytes_of(head(model)),
    )  # fmt: skip


def decoded(model: PreTrainedModel, learned: nn.Module, config: PretrainedConfig, request: Request) -> tuple[int, int]:
    """The cache, and the peak, of decoding with what was learned; an MLP is folded away first."""
    if request.prefix_projection:
        model = bare(config, request)
        learned = with_prefix(model, request.folded())
    cache, peak = decode(model, learned.eval(), request)
    return cache, peak + bytes_of(tensors_of(learned))


def bare(config: PretrainedConfig, request: Request) -> PreTrainedModel:
    """The frozen model."""
    model = build(config, request.torch_dtype)
    if request.bits is not None:
        quantize(model, request.bits)
    return model


def layers(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks that Accelerate shards and gathers one by one: those that transformers never splits over devices."""
    names, blocks = set(model._no_split_modules or ()), dict[str, nn.Module]()
    for name, module in model.named_modules():
        if type(module).__name__ in names and not any(name.startswith(f"{block}.") for block in blocks):
            blocks[name] = module
    return list(blocks.values())


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()


def head(model: PreTrainedModel) -> list[Tensor]:
    """The weight (V, d) of the output layer, if the model has one."""
    return [module.weight for module in [model.get_output_embeddings()] if module is not None]


def kind_of(vocabularies: set[int], tensor: Tensor) -> str:
    """Logits and their copies are told by their width."""
    return LOGITS if tensor.dim() > 1 and tensor.shape[-1] in vocabularies else ""
