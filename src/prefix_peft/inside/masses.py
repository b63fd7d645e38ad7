"""How much attention the prefix gets while a model reads a text: by layer and head, by token, by virtual token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..anatomy.sites import Site
from ..anatomy.source import reads_tokens
from ..anatomy.trial import is_encoder_decoder, token_table, undisturbed
from ..data.batches import IGNORED, collate, encode_pairs, encode_prompts, padding_id
from ..layer import prefix_layers
from .observing import observe

MARKS = str.maketrans({" ": "·", "\n": "↵", "\r": "↵", "\t": "→"})

Tokens = dict[str, list[int]]  # by role: those whose queries its sites ask


@dataclass(frozen=True)
class SiteMass:
    """Of one site: the shares (H, T, P) of each query's attention that fall to each virtual token."""

    site: Site
    weights: Tensor

    @property
    def heads(self) -> Tensor:
        """The prefix's share (H,) in each head, the mean over the text."""
        return self.weights.sum(-1).mean(1)

    @property
    def tokens(self) -> Tensor:
        """The prefix's share (T,) at each token, the mean over heads."""
        return self.weights.sum(-1).mean(0)

    @property
    def virtual(self) -> Tensor:
        """The share (P,) of each virtual token, the mean over heads and text."""
        return self.weights.mean((0, 1))


@dataclass(frozen=True)
class Masses:
    """Of one text."""

    sites: list[SiteMass]
    texts: dict[str, list[str]]  # by role: the tokens whose queries its sites ask, to be shown

    def of_role(self, role: str) -> list[SiteMass]:
        """The sites of one role, in the order of the model."""
        return [mass for mass in self.sites if mass.site.role == role]

    @property
    def roles(self) -> list[str]:
        """Those that there are."""
        return list(dict.fromkeys(mass.site.role for mass in self.sites))


def attention_mass(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    target: str | None = None,
    separator: str | None = None,
) -> Masses:
    """Let ``model`` read ``text`` as a prompt, with ``target`` behind it where there is one, and see how it attends.

    An encoder-decoder reads ``text`` with its encoder and ``target``, or the first token alone, with its decoder.

    Args:
        separator: what stands between the two in a causal model, as in training.

    Raises:
        ValueError: no text, one longer than the model reads, or no active prefix.
        NotImplementedError: the model reads something else than tokens, or attends in blocks of queries.
    """
    base: Any = model.get_base_model()
    if not text.strip() or (target is not None and not target.strip()):
        raise ValueError(f"attention is paid while a text is read; give one with words, got {[text, target]}.")
    if not reads_tokens(base):
        raise NotImplementedError(f"{type(base).__name__} reads {base.main_input_name}; only texts can be given here.")
    inputs, tokens = _encoded(base, tokenizer, text, target, separator)
    with undisturbed(base), observe(model) as observed:
        model(**inputs)
    if not observed.sites:
        raise ValueError("no prefix was active while the text was read; choose one with model.set_adapter(name).")
    sites = [SiteMass(site, observed.weights(site.name)[0].cpu()) for site in observed.sites]
    return Masses(sites, {role: [shown(tokenizer, token) for token in ids] for role, ids in tokens.items()})


def shown(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token's text on one line, spaces as dots and line breaks as arrows; its name where that is no text."""
    text = str(tokenizer.decode([token])).translate(MARKS)
    if not text or "\N{REPLACEMENT CHARACTER}" in text or not text.isprintable():
        text = str(tokenizer.convert_ids_to_tokens(token))
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _encoded(
    base: Any, tokenizer: PreTrainedTokenizerBase, text: str, target: str | None, separator: str | None
) -> tuple[dict[str, Tensor], Tokens]:
    """What the model reads, and the tokens by role."""
    two_sided = is_encoder_decoder(base)
    if target is None:
        prompts = encode_prompts([text], tokenizer, is_encoder_decoder=two_sided, separator=separator)
        source, labels, cut = prompts[0], [], prompts.truncated > 0
    else:
        pairs = encode_pairs([(text, target)], tokenizer, is_encoder_decoder=two_sided, separator=separator)
        batch = collate(pairs.examples, padding_id(tokenizer), two_sided)
        source, cut = batch["input_ids"][0].tolist(), pairs.truncated > 0
        labels = [token for token in batch["labels"][0].tolist() if token != IGNORED]
    _check_length(base, tokenizer, len(source), cut)
    device = token_table(base).device
    inputs = {"input_ids": torch.tensor([source], device=device)}
    if not two_sided:
        return inputs, {"decoder": source, "encoder": source}
    written = [_start_token(base), *labels[:-1]]
    inputs["decoder_input_ids"] = torch.tensor([written], device=device)
    return inputs, {"encoder": source, "decoder": written, "cross": written}


def _check_length(base: Any, tokenizer: PreTrainedTokenizerBase, count: int, cut: bool) -> None:
    most = tokenizer.model_max_length
    if any(layer.shifts() for layer in prefix_layers(base)):
        most -= max(layer.config[name].num_virtual_tokens for layer in prefix_layers(base) for name in layer.config)
    if cut or count > most:
        raise ValueError(
            f"the text is longer than the {most} tokens that the model reads beside its prefix; show a shorter one."
        )


def _start_token(base: Any) -> int:
    configs = (getattr(base, "generation_config", None), base.config.get_text_config(), base.config)
    found = (getattr(config, "decoder_start_token_id", None) for config in configs)
    token = next((token for token in found if isinstance(token, int)), None)
    if token is None:
        raise ValueError(f"{type(base).__name__} names no decoder_start_token_id; set model.config's.")
    return token
