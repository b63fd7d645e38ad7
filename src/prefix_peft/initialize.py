"""Start a prefix from real tokens: their keys and values, as the frozen model computes them.

The model is asked where its positions come from. Learned positions (a table): the tokens take positions 0..P-1 and the
text behind is shifted to P. Otherwise the tokens are run at positions -P..-1, where rotary attention sees them just to
the left of a text that stays where it was. A decoder's text that shares one softmax with its encoder's states cannot
stay (T5Gemma 2), for they know its place as a table does. Relative biases that belong to a pair of tokens (T5) cannot
be put into a key; there the prefix is a good start, not an exact copy.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from . import positions
from .anatomy.trial import vocabulary
from .anatomy.watching import anatomy_of
from .bars import bar
from .config import PrefixConfig
from .encoders import FlatEncoder, MLPEncoder
from .layer import PrefixLayer, prefix_layers
from .reading import KeysValues, read_activations

logger: logging.Logger = logging.getLogger(__name__)

RANDOM_TOKENS = 64  # enough to be different; a longer prefix repeats them
COPY_NOISE = 0.02  # of the activations' spread
FIT_STEPS, FIT_LEARNING_RATE = 500, 1e-3  # the paper's code fits its MLP in 500 steps as well


def initialize_kv_prefix_from_tokens(
    model: nn.Module,
    input_ids: Tensor,
    decoder_input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    adapter_name: str | None = None,
) -> float:
    """Make a prefix the activations of real tokens; from then on ``model(x)`` is ``base([tokens; x])`` read at x.

    Exact for decoders with learned or rotary positions. Encoder sites take ``input_ids`` read by the encoder, cross
    sites the encoder's states of ``input_ids``, decoder sites ``decoder_input_ids`` read by the decoder behind
    ``input_ids``.

    Args:
        model: a model with a prefix, wrapped by PEFT or by transformers' ``add_adapter``.
        input_ids: (P,) or (1, P), as many tokens as ``num_virtual_tokens``.
        decoder_input_ids: (P,) or (1, P), for encoder-decoders; ``input_ids`` where left out.
        attention_mask: of the shape of ``input_ids``; tokens with 0 are left out.
        adapter_name: which prefix; the active one where left out.

    Returns:
        What is left between the tokens' activations and the prefix, as a share of their norm: 0 for a flat prefix; for
        one with ``prefix_projection`` what remains after fitting the MLP (the low-data recipe of the paper).

    Raises:
        ValueError: not exactly ``num_virtual_tokens`` tokens, several rows, or an unknown adapter.
    """
    base, name = _resolve(model, adapter_name)
    _check_reads_tokens(base)
    layers = _layers(base, name)
    config = layers[0].config[name]
    tokens = _tokens("input_ids", input_ids, attention_mask)
    decoder_tokens = tokens if decoder_input_ids is None else _tokens("decoder_input_ids", decoder_input_ids, None)
    _check_lengths(layers, name, tokens, decoder_tokens)
    residual = _write(layers, name, read_activations(base, tokens, decoder_tokens))
    with torch.no_grad():
        for layer in layers:
            gate = layer.encoder(name).p_gate
            if gate is not None:
                gate.fill_(1.0)
    learned = {layer.site.role for layer in layers} & anatomy_of(base).positions.keys()
    if learned and config.position_mode != "shift":
        logger.info("position_mode of %r is now 'shift': the tokens of the prefix took the first positions.", name)
        config.position_mode = "shift"
        positions.place(base)
    return residual


def initialize_kv_prefix_from_text(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, adapter_name: str | None = None
) -> float:
    """`initialize_kv_prefix_from_tokens` for a text, which must be exactly ``num_virtual_tokens`` tokens long."""
    return initialize_kv_prefix_from_tokens(model, _words(tokenizer, text), adapter_name=adapter_name)


def starting_tokens(model: PreTrainedModel, config: PrefixConfig) -> Tensor | None:
    """The tokens (N,) among which a new prefix starts: ``init_text``, else random ones; None where others fill it.

    Raises:
        ValueError: ``init_text`` without a tokenizer to read it, or without a token.
    """
    if config.inference_mode or config.filled_by_caller:
        return None
    if config.init_text is not None:
        _check_reads_tokens(model)
        return _words(_tokenizer(model, config), config.init_text)
    tokens = _ordinary_tokens(model)
    sink = getattr(model.config.get_text_config(), "bos_token_id", None)
    if config.num_frozen_tokens and isinstance(sink, int):
        tokens[0] = sink  # the first token of the texts on which the model was trained
    return tokens


def start(
    model: PreTrainedModel,
    adapter_name: str,
    tokens: Tensor | None,
    decoder_tokens: Tensor | None = None,
    *,
    chosen: bool | None = None,
) -> None:
    """Let a new prefix be the activations of ``tokens`` (N,), repeated or cut to P. Positions stay as configured.

    Real activations leave the model near its own loss, where random numbers would not: a key of noise takes its share
    of every query's attention. A decoder behind an encoder reads ``decoder_tokens`` (M,), or the same. Tokens that were
    ``chosen`` (by default: where there is an ``init_text``) are read exactly, and an MLP is fitted to them.
    """
    layers = _layers(model, adapter_name)
    if tokens is None or any(p.device.type == "meta" for layer in layers for p in layer.parameters()):
        return
    config = layers[0].config[adapter_name]
    chosen = config.init_text is not None if chosen is None else chosen
    longest = max(layer.length_of(adapter_name) for layer in layers)
    decoder_tokens = tokens if decoder_tokens is None else decoder_tokens
    read = read_activations(model, tokens[None, :longest], decoder_tokens[None, :longest], exact=chosen)
    activations: KeysValues = {}
    for layer in layers:
        keys, values = read[layer.site.name]
        length = layer.length_of(adapter_name)
        activations[layer.site.name] = (_to_length(keys, length), _to_length(values, length))
    if config.prefix_projection and not chosen:
        for layer in layers:  # fitting an MLP to random tokens would be in vain; it is enough to start among them
            cast("MLPEncoder", layer.encoder(adapter_name)).center(*activations[layer.site.name])
    else:
        _write(layers, adapter_name, activations)


def _to_length(activations: Tensor, length: int) -> Tensor:
    """(G, N, D) repeated or cut to (G, P, D); copies get a little noise, or their gradients would keep them equal."""
    tokens = activations.shape[1]
    if length <= tokens:
        return activations[:, :length]
    copies = activations.repeat(1, -(-length // tokens), 1)[:, :length]
    copies[:, tokens:] += torch.randn_like(copies[:, tokens:]) * activations.std() * COPY_NOISE
    return copies


def _ordinary_tokens(model: PreTrainedModel) -> Tensor:
    """Random tokens (RANDOM_TOKENS,), none of which has a part of its own (padding, images)."""
    special = {
        value for key, value in model.config.to_dict().items() if key.endswith(("token_id", "token_index", "token_ids"))
        for value in (value if isinstance(value, list) else [value])
    }  # fmt: skip
    ordinary = [token for token in range(vocabulary(model)) if token not in special]
    return torch.tensor(ordinary)[torch.randint(len(ordinary), (RANDOM_TOKENS,))]


def _write(layers: list[PrefixLayer], name: str, activations: KeysValues) -> float:
    """Let the prefix be these activations, as far as its encoder can; returns the residual."""
    encoders = [layer.encoder(name) for layer in layers]
    targets = [activations[layer.site.name] for layer in layers]
    projections = [encoder for encoder in encoders if isinstance(encoder, MLPEncoder)]
    if projections:
        return _fit(projections, targets)
    for encoder, target in zip(encoders, targets, strict=True):
        cast("FlatEncoder", encoder).fill(*target)
    return 0.0


def _fit(encoders: list[MLPEncoder], targets: list[tuple[Tensor, Tensor]]) -> float:
    """Fit the MLP by Adam; returns the root of the mean squared error, each site's keys and values scaled to norm 1."""
    parameters = [p for encoder in encoders for key, p in encoder.named_parameters() if key != "p_gate"]
    frozen = [p for p in parameters if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=FIT_LEARNING_RATE)
    residual = 1.0
    with torch.enable_grad(), bar(range(FIT_STEPS), desc="fitting the MLP to the tokens", unit="step") as shown:
        for _ in shown:
            errors = [_error(encoder, target) for encoder, target in zip(encoders, targets, strict=True)]
            error = torch.stack([part.cpu() for part in errors]).mean()
            for parameter, gradient in zip(parameters, torch.autograd.grad(error, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
            residual = error.item() ** 0.5
            shown.set_postfix(residual=f"{residual:.4f}", refresh=False)
    optimizer.zero_grad(set_to_none=True)
    for parameter in frozen:
        parameter.requires_grad_(False)
    logger.info("The MLP fits the tokens' activations up to %.2g of their norm.", residual)
    return residual


def _error(encoder: MLPEncoder, target: tuple[Tensor, Tensor]) -> Tensor:
    parts = zip(encoder(), target, strict=True)
    return torch.stack([(ours - theirs).square().sum() / theirs.square().sum() for ours, theirs in parts]).mean()


def _resolve(model: nn.Module, adapter_name: str | None) -> tuple[PreTrainedModel, str]:
    """The base model that carries the prefix layers, and the adapter's name."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = prefix_layers(base)
    if not layers:
        raise ValueError(f"{type(base).__name__} carries no prefix; wrap it first: prefix_peft.wrap(model).")
    known = sorted({name for layer in layers for name in layer.prefix_kv_encoder})
    name = adapter_name or layers[0].active_adapters[0]
    if name not in known:
        raise ValueError(f"there is no prefix {name!r}; the prefixes of this model are {known}.")
    return base, name


def _layers(base: PreTrainedModel, name: str) -> list[PrefixLayer]:
    return [layer for layer in prefix_layers(base) if name in layer.prefix_kv_encoder]


def _check_reads_tokens(model: PreTrainedModel) -> None:
    if anatomy_of(model).source_shape is not None:
        raise ValueError(
            f"the encoder of {type(model).__name__} reads {model.main_input_name}, so no prefix of it can be made of "
            "tokens. Leave init_text out: the prefix then starts among random activations."
        )


def _tokens(argument: str, ids: Tensor, mask: Tensor | None) -> Tensor:
    ids = torch.as_tensor(ids)
    rows = ids[None] if ids.dim() == 1 else ids
    if rows.dim() != 2 or len(rows) != 1:
        raise ValueError(f"{argument} must be one row of tokens, (P,) or (1, P), got shape {tuple(ids.shape)}.")
    if mask is None:
        return rows
    mask = torch.as_tensor(mask)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask is {tuple(mask.shape)}, {argument} is {tuple(ids.shape)}.")
    return rows[:, mask.reshape(-1).bool().to(rows.device)]


def _check_lengths(layers: list[PrefixLayer], name: str, tokens: Tensor, decoder_tokens: Tensor) -> None:
    for layer in layers:
        given = decoder_tokens if layer.site.role == "decoder" else tokens
        if given.shape[1] != layer.length_of(name):
            raise ValueError(
                f"{given.shape[1]} tokens cannot become the {layer.length_of(name)} virtual tokens of "
                f"{layer.site.name}: a prefix has exactly num_virtual_tokens of them. Choose another text, or another "
                "num_virtual_tokens."
            )


def _words(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"the text {text!r} has no tokens.")
    return torch.tensor(ids)


def _tokenizer(model: PreTrainedModel, config: PrefixConfig) -> PreTrainedTokenizerBase:
    source = config.tokenizer_name_or_path or getattr(model, "name_or_path", None)
    if not source:
        raise ValueError(
            f"init_text={config.init_text!r} needs a tokenizer, and this {type(model).__name__} was not loaded from a "
            "place that has one. Say where it is: PrefixConfig(tokenizer_name_or_path=...)."
        )
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
