"""PEFT's PREFIX_TUNING and CARTRIDGE: ``prompt_embeddings`` (P, 2 L G D), which PEFT puts before a text as a cache.

Positions therefore count from P on. A projection is folded by PEFT when it saves. Of an encoder-decoder PEFT serves the
decoder's self-attention alone, and its layer i reads the numbers of layer 2 i mod L.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import CartridgeConfig, PeftModel, PrefixTuningConfig
from peft.config import PromptLearningConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..anatomy.sites import Site
from ..anatomy.trial import is_encoder_decoder
from ..one_pass import KeysValues
from ..wrap import infer_task_type
from .attaching import as_cache, base_of
from .content import Content, common_shape, from_rows, own_role, sites_of, to_rows
from .formats import Format, Source, register_format

NAME = "prompt_embeddings"


@register_format("peft")
class PrefixTuning(Format):
    """PEFT's PREFIX_TUNING."""

    peft_type = "PREFIX_TUNING"

    def recognises(self, source: Source) -> bool:
        """By the type that the config names."""
        return source.config.get("peft_type") == self.peft_type

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """The rows as keys and values of the layers that PEFT gives them to."""
        others = sorted(source.names - {NAME})
        if others or NAME not in source.names:
            raise ValueError(
                f"{source.file} must hold {NAME} alone, and has {sorted(source.names)[:4]}; other weights of the model "
                "that were trained besides (modules_to_save) are not converted."
            )
        sites, where = sites_of(model, own_role(model)), f"{NAME} in {source.file}"
        _check_counts(source, sites, where)
        rows = source.tensors(NAME)[NAME]
        _check_length(source, rows)
        parts = from_rows(rows, sites, where)
        if is_encoder_decoder(model):
            parts = _as_read(parts)
            _note_unread(parts, notes)
        return Content(parts, behind=True, num_frozen_tokens=self.frozen(source, len(rows), notes))

    def frozen(self, source: Source, length: int, notes: list[str]) -> int:
        """How many of P are never trained."""
        return 0

    def write(self, directory: Path, model: PeftModel, notes: list[str]) -> None:
        """As PEFT would save it, after the proof that its model does the same."""
        base, what = base_of(model), f"PEFT's {self.peft_type}"
        content, sites = as_cache(model, what), sites_of(base, own_role(base))
        parts = _as_written(content.parts, notes) if is_encoder_decoder(base) else content.parts
        heads, dim = common_shape(sites, what)
        config = self.config(content, notes)
        config.task_type = infer_task_type(base)
        config.base_model_name_or_path = base.name_or_path or None
        config.num_virtual_tokens, config.num_layers = content.length, len(sites)
        config.token_dim, config.num_attention_heads = heads * dim, heads
        config.num_transformer_submodules = 2 if is_encoder_decoder(base) else 1
        config.inference_mode = True
        config.save_pretrained(str(directory))
        save_file({NAME: to_rows(parts, sites, what)}, directory / "adapter_model.safetensors")

    def config(self, content: Content, notes: list[str]) -> PromptLearningConfig:
        """What this kind has besides."""
        if content.num_frozen_tokens:
            notes.append(f"the first {content.num_frozen_tokens} tokens would train on; --to cartridge keeps them.")
        return PrefixTuningConfig()


@register_format("cartridge")
class Cartridge(PrefixTuning):
    """PEFT's CARTRIDGE: the same, and its first tokens are frozen."""

    peft_type = "CARTRIDGE"

    def frozen(self, source: Source, length: int, notes: list[str]) -> int:
        """All but one at most, for a prefix of which nothing trains is none."""
        count = source.setting("num_frozen_tokens", int, 1)
        if count >= length:
            notes.append(f"num_frozen_tokens={count} of {length} leaves none to train; here {length - 1} are frozen.")
        return max(0, min(count, length - 1))

    def config(self, content: Content, notes: list[str]) -> PromptLearningConfig:
        """With the frozen tokens."""
        return CartridgeConfig(num_virtual_tokens=content.length, num_frozen_tokens=content.num_frozen_tokens)


def _check_counts(source: Source, sites: list[Site], where: str) -> None:
    heads, dim = common_shape(sites, where)
    needed = {"num_layers": len(sites), "num_attention_heads": heads, "token_dim": heads * dim}
    found = {key: source.setting(key, int, value) for key, value in needed.items()}
    if found != needed:
        raise ValueError(
            f"{source.file.parent} was made with {found}, the model needs {needed}: layers, key/value heads, and their "
            "width together. It was made for another base model."
        )


def _check_length(source: Source, rows: Tensor) -> None:
    length = source.setting("num_virtual_tokens", int, len(rows))
    if length != len(rows):
        raise ValueError(f"{source.file} has {len(rows)} rows, its config says num_virtual_tokens={length}.")


def _as_read(parts: KeysValues) -> KeysValues:
    """PEFT puts two copies of the L layers one after the other and gives each layer every second one."""
    pairs = list(parts.values())
    return {name: pairs[2 * layer % len(pairs)] for layer, name in enumerate(parts)}


def _as_written(parts: KeysValues, notes: list[str]) -> KeysValues:
    """What `_as_read` reads as ``parts``.

    Raises:
        ValueError: two layers that PEFT gives the same numbers have different ones.
    """
    names, pairs = list(parts), list(parts.values())
    held: dict[int, tuple[Tensor, Tensor]] = {}
    for layer, pair in enumerate(pairs):
        place = 2 * layer % len(pairs)
        same = held.setdefault(place, pair)
        if not all(torch.equal(ours, theirs) for ours, theirs in zip(pair, same, strict=True)):
            raise ValueError(
                f"PEFT gives decoder layers {layer} and {layer - len(pairs) // 2} of {len(pairs)} the same prefix, and "
                "this one has two different ones there."
            )
    empty = [name for place, name in enumerate(names) if place not in held]
    if empty:
        notes.append(f"PEFT never reads its numbers for {len(empty)} of {len(names)} layers; they are zeros.")
    zeros = torch.zeros_like(pairs[0][0])
    return {name: held.get(place, (zeros, zeros)) for place, name in enumerate(names)}


def _note_unread(parts: KeysValues, notes: list[str]) -> None:
    if len(parts) % 2 == 0:
        notes.append(
            f"of {len(parts)} layers PEFT reads every second one's numbers, twice each; so does this prefix. What was "
            "in the others had no effect and is left out."
        )
