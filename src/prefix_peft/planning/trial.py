"""The runs that are counted: a training step, and decoding. They run with numbers as well as without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ..config import PrefixConfig
from ..evaluation.loss import target_loss
from ..wrap import infer_task_type
from .counting import LiveBytes
from .request import HALF, Request


def learner(model: PreTrainedModel, request: Request) -> nn.Module:
    """``model`` as it trains."""
    learning = model.requires_grad_(True) if request.every_weight else with_prefix(model, request)
    if request.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return learning.train()


def optimizer_of(learning: nn.Module) -> Optimizer:
    """An optimizer that has its moments; there are gradients, as between two batches of one step."""
    trained = [parameter for parameter in learning.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = AdamW(trained)
    optimizer.step()
    return optimizer


def with_prefix(model: PreTrainedModel, request: Request) -> nn.Module:
    """``model`` with the prefix that is asked for, which starts anywhere."""
    config = PrefixConfig(
        task_type=infer_task_type(model), num_virtual_tokens=request.num_virtual_tokens,
        prefix_projection=request.prefix_projection, encoder_hidden_size=request.encoder_hidden_size,
    )  # fmt: skip
    config.filled_by_caller = True
    return get_peft_model(model, config)


def texts(model: PreTrainedModel, request: Request, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """A batch of texts, one of which ends a token earlier, so that there is a mask."""
    seq2seq = model.config.is_encoder_decoder
    tokens = torch.ones(request.batch_size, request.sequence_length, dtype=torch.long, device=device)
    mask = tokens.clone()
    mask[-1, -1] = 0
    labels = tokens.new_ones(request.batch_size, request.targets) if seq2seq else tokens.clone()
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def train_step(learning: Any, batch: dict[str, Tensor], optimizer: Optimizer, request: Request) -> None:
    """Forward, backward and optimizer, as in the training loop."""
    with _autocast(request, batch["input_ids"].device):
        loss, _ = target_loss(learning, batch, learning.config.is_encoder_decoder)
    loss.backward()
    optimizer.step()


def _autocast(request: Request, device: torch.device) -> AbstractContextManager[Any]:
    half = HALF.get(request.mixed_precision)
    return nullcontext() if half is None else torch.autocast(device.type, half)


def held(learning: nn.Module, optimizer: Optimizer) -> Iterator[Tensor]:
    """All that there is between two steps: weights, what is trained, its gradients and moments."""
    yield from learning.buffers()
    for parameter in learning.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


@torch.no_grad()
def decode(model: PreTrainedModel, learned: nn.Module, request: Request) -> tuple[int, int]:
    """Bytes of the cache behind all tokens, and the peak: while the prompt is read, or the last token written."""
    prompt = texts(model, request)
    prompt.pop("labels")
    written = prompt["input_ids"].new_ones(request.batch_size, request.max_new_tokens)
    options: dict[str, Any] = {"use_cache": True}
    if "logits_to_keep" in signature(model.forward).parameters:
        options["logits_to_keep"] = 1
    with LiveBytes() as counter:
        learned(**_behind(model, prompt, written[:, :1]), **options)
        reading = counter.peak
        state = _remembered(learned(**_behind(model, prompt, written), **options))
        counter.begin_again()
        cache = counter.now
        inputs = _last(model, prompt, written) if state else _behind(model, prompt, written)
        learned(**inputs, **state, **options)
    return cache, max(reading, counter.peak)


def _behind(model: PreTrainedModel, prompt: dict[str, Tensor], written: Tensor) -> dict[str, Tensor]:
    """The inputs when these tokens (B, N) stand behind the prompt, or are a decoder's."""
    if model.config.is_encoder_decoder:
        return prompt | {"decoder_input_ids": written}
    return {name: torch.cat([tensor, torch.ones_like(written)], dim=1) for name, tensor in prompt.items()}


def _last(model: PreTrainedModel, prompt: dict[str, Tensor], written: Tensor) -> dict[str, Tensor]:
    """The inputs of one more token, where the model remembers those before."""
    last = _behind(model, prompt, torch.cat([written, written[:, :1]], dim=1))
    name = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    return {"attention_mask": last["attention_mask"], name: last[name][:, -1:]}


def _remembered(output: Any) -> dict[str, Any]:
    """What the next token needs of this forward pass; nothing where the model has no cache, and reads all again."""
    if output.get("past_key_values") is None:
        return {}
    state = {"past_key_values": output.past_key_values}
    if "encoder_last_hidden_state" in output:
        state["encoder_outputs"] = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
    return state
