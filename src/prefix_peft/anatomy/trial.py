"""Trial runs: a model reads a few tokens, and is afterwards as it was."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..gathering import full_shape, gathered

ENCODER_TOKENS, DECODER_TOKENS = 3, 2  # different, so that the shapes of a call tell what attends to what


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether ``model`` reads a source with one part and writes a target with another."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def body(model: PreTrainedModel) -> nn.Module:
    """What a trial runs: of classifiers the part below the head, which may ask more of a text (BART's, an end)."""
    return model if model.can_generate() else model.base_model


def equal_tokens(model: PreTrainedModel, source_shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Inputs: a few equal tokens, and silence or black of ``source_shape`` where the encoder reads that."""
    device = token_table(model).device
    token = min(7, vocabulary(model) - 1)
    source = ENCODER_TOKENS if is_encoder_decoder(model) else DECODER_TOKENS
    inputs: dict[str, Any] = {"input_ids": torch.full((1, source), token, device=device)}
    if source_shape is not None:
        inputs = {model.main_input_name: torch.zeros(source_shape, dtype=model.dtype, device=device)}
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = torch.full((1, DECODER_TOKENS), token, device=device)
    if "use_cache" in inspect.signature(body(model).forward).parameters:
        inputs["use_cache"] = False
    return inputs


def token_table(model: PreTrainedModel) -> Tensor:
    """The input embeddings, which are where tokens are read."""
    table = model.get_input_embeddings()
    return cast("nn.Embedding", table[0] if isinstance(table, nn.ModuleList) else table).weight  # one a codebook


def vocabulary(model: PreTrainedModel) -> int:
    """How many tokens there are, also where this process has none of their table."""
    return full_shape(token_table(model))[0]


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """In eval mode and without gradients inside; modes and random state as they were afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), gathered(model):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def without_other_adapters(model: PreTrainedModel) -> Iterator[None]:
    """A model shows the same of itself whatever LoRA or another method adds to it."""
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    layers = [layer for layer in layers if not layer.disable_adapters and not layer.merged]  # merged: part of the base
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters() would change what trains as well
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def running(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The modules of ``model`` that are running in this thread, the innermost last."""
    stack: list[nn.Module] = []
    thread = get_ident()

    def enter(module: nn.Module, args: object) -> None:
        if get_ident() == thread:
            stack.append(module)

    def leave(module: nn.Module, args: object, result: object) -> None:
        if get_ident() == thread:
            stack.pop()

    handles = []
    for module in model.modules():
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def leaving_a_graph(model: nn.Module) -> Iterator[None]:
    """Gradients on, so that what runs inside shows what depends on what; weights off, and nothing is kept for them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_keep_nothing, _keep_nothing):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _keep_nothing(_: Any) -> Any:
    return None


def leaves_of(tensors: list[Tensor]) -> set[int]:
    """The ids of the leaf tensors on which ``tensors`` depend."""
    todo = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen, leaves = set(todo), set()
    while todo:
        node = todo.pop()
        leaves.add(id(getattr(node, "variable", None)))
        new = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= new
        todo += new
    return leaves
