"""The keys and values of real tokens, as the frozen model computes them to the left of a text.

A long text is read in chunks, each behind the model's own cache of those before it, so that what is held at a time
grows with the chunk and not with the square of the text.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .anatomy.trial import body, is_encoder_decoder, token_table, undisturbed
from .anatomy.watching import anatomy_of
from .bars import bar
from .by_hand.door import opened
from .one_pass import KeysValues, one_pass

logger: logging.Logger = logging.getLogger(__name__)

CHUNK = 512  # tokens
PROBE, PROBE_CHUNK = 16, 6  # tokens: two chunks behind a first one, the last of them shorter


def read_activations(
    model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor, *, exact: bool = True
) -> KeysValues:
    """The keys and values of ``tokens`` (1, P) at every site of the frozen ``model``, no prefix taking part.

    What is not to be ``exact`` takes one pass where it can.
    """
    by_hand = [model.get_submodule(name) for name, site in anatomy_of(model).sites.items() if site.by_hand]
    with undisturbed(model), opened(by_hand):
        if tokens.shape[1] > CHUNK and _continues(model, tokens):
            return _in_chunks(model, tokens, CHUNK)
        return _at_once(model, tokens, decoder_tokens, exact=exact)


def read_in_place(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor) -> KeysValues:
    """The same where a text begins, at positions 0, 1, ..., of few tokens."""
    by_hand = [model.get_submodule(name) for name, site in anatomy_of(model).sites.items() if site.by_hand]
    lengths = {"encoder": tokens.shape[1], "cross": tokens.shape[1], "decoder": decoder_tokens.shape[1]}
    with undisturbed(model), opened(by_hand):
        return one_pass(model, inputs_of(model, tokens, decoder_tokens), {}, lengths)[0]


def _at_once(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor, *, exact: bool = True) -> KeysValues:
    inputs, positions = inputs_of(model, tokens, decoder_tokens), positions_of(model, tokens, decoder_tokens)
    length = tokens.shape[1]
    lengths = {"encoder": length, "cross": length, "decoder": decoder_tokens.shape[1]}
    if positions and not exact:
        with suppress(TypeError, ValueError, IndexError, RuntimeError):  # not every model has positions below 0
            seen, _ = one_pass(model, inputs | positions, {}, lengths)
            if all(side.isfinite().all() for pair in seen.values() for side in pair):
                return seen
    return one_pass(model, inputs, positions, lengths)[0]


def _in_chunks(model: PreTrainedModel, tokens: Tensor, size: int, *, quiet: bool = False) -> KeysValues:
    """Read ``size`` tokens at a time, those before them in the cache that the model made."""
    positions, cache, chunks = positions_of(model, tokens, tokens), None, []
    for start in bar(range(0, tokens.shape[1], size), desc="reading the tokens", unit="chunk", disable=quiet):
        piece = tokens[:, start : start + size]
        here = {name: ids[:, start : start + size] for name, ids in positions.items()}
        inputs = inputs_of(model, piece, piece) | {"use_cache": True, "past_key_values": cache}
        seen, cache = one_pass(model, inputs, here, {"encoder": piece.shape[1], "decoder": piece.shape[1]})
        chunks.append(seen)
    return _joined(chunks)


def _joined(chunks: list[KeysValues]) -> KeysValues:
    """The chunks one after the other. They are given up on the way, for a long prefix is most of the memory."""
    whole: KeysValues = {}
    for name in list(chunks[0]):
        keys, values = zip(*(chunk.pop(name) for chunk in chunks), strict=True)
        whole[name] = torch.cat(keys, dim=1), torch.cat(values, dim=1)
    return whole


def _continues(model: PreTrainedModel, tokens: Tensor) -> bool:
    """Whether ``model`` reads the first of ``tokens`` in chunks as it reads them at once.

    Not all do: encoders see what comes behind as well, and some recurrent layers go on by one token only.
    """
    known = inspect.signature(body(model).forward).parameters
    if is_encoder_decoder(model) or not {"past_key_values", "use_cache"} <= known.keys():
        return False
    few = tokens[:, :PROBE]
    whole = _at_once(model, few, few)
    try:
        parts = _in_chunks(model, few, PROBE_CHUNK, quiet=True)
    except Exception as error:  # whatever it is: there is another way to read
        logger.info("%s does not go on from its cache, and is read at once: %s", type(model).__name__, error)
        return False
    rounding = torch.finfo(model.dtype).eps ** 0.5
    pairs = [(parts[name][i], whole[name][i]) for name in whole for i in (0, 1)]
    return all((ours - theirs).norm() <= rounding * theirs.norm() for ours, theirs in pairs)


def inputs_of(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor) -> dict[str, Any]:
    """What a forward pass over the tokens needs, no cache and as few logits as possible among it."""
    device, shape = token_table(model).device, anatomy_of(model).source_shape
    known = inspect.signature(body(model).forward).parameters
    inputs: dict[str, Any] = {"input_ids": tokens.to(device)}
    if shape is not None:
        inputs = {model.main_input_name: torch.randn(shape, dtype=model.dtype, device=device)}
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = decoder_tokens.to(device)
    if "use_cache" in known:
        inputs["use_cache"] = False
    if "logits_to_keep" in known:
        inputs["logits_to_keep"] = 1  # none is needed, and those of a large vocabulary are more than all the rest
    return inputs


def positions_of(model: PreTrainedModel, tokens: Tensor, decoder_tokens: Tensor) -> dict[str, Tensor]:
    """Those just to the left of a text, as an argument for models that have no table of positions but take it.

    Decoders behind an encoder of images or sound may take it without naming it, and pass it on.
    """
    learned, known = anatomy_of(model).positions, inspect.signature(body(model).forward).parameters
    name, ids, taken = "position_ids", tokens, any(p.kind is p.VAR_KEYWORD for p in known.values())
    if is_encoder_decoder(model):
        name, ids, taken, learned = "decoder_position_ids", decoder_tokens, False, learned.keys() & {"decoder"}
    if learned or not (taken or name in known):
        return {}
    return {name: torch.arange(-ids.shape[1], 0, device=token_table(model).device)[None]}
