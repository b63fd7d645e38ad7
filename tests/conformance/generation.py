"""Every way of generating against full forward passes without a cache, or against plain greedy generation."""

from __future__ import annotations

from typing import Any

import torch
from subject import NEW, Subject, assert_close, assert_same_tokens
from torch import Tensor
from zoo import tokens

BEAMS = 3


def greedy(subject: Subject) -> None:
    """``generate`` writes what full forward passes without a cache find most likely."""
    prompt = subject.prompt()
    text = subject.begin(prompt)
    with torch.no_grad():
        for _ in range(NEW):
            text = torch.cat([text, subject.logits(subject.model, prompt, text)[:, -1:].argmax(-1)], dim=1)
    assert_same_tokens(subject.continuation, text, "generate() and full forward passes write different tokens")


def beams(subject: Subject) -> None:
    """Beam search scores each row as one full forward pass over what it returns does."""
    prompt = subject.prompt()
    options = {"num_beams": BEAMS, "length_penalty": 0.0, "return_dict_in_generate": True, "output_scores": True}
    found = subject.generate(prompt=prompt, **options)
    given = subject.begin(prompt).shape[1]
    with torch.no_grad():
        scores = subject.logits(subject.model, prompt, found.sequences).float().log_softmax(-1)[:, given - 1 : -1]
    expected = scores.gather(-1, found.sequences[:, given:, None]).sum(dim=(1, 2))
    assert_close(found.sequences_scores, expected, "beam search and a full forward pass score differently")


def static_cache(subject: Subject) -> None:
    """A cache of fixed size gives the same tokens as the growing one."""
    _same(subject, "a static cache", cache_implementation="static")


def no_cache(subject: Subject) -> None:
    """``use_cache=False`` gives the same tokens."""
    _same(subject, "generating without a cache", use_cache=False)


def chunked_prefill(subject: Subject) -> None:
    """A prompt that is read in pieces gives the same tokens."""
    _same(subject, "chunked prefill", prefill_chunk_size=4)


def prompt_lookup(subject: Subject) -> None:
    """Tokens that are guessed from the prompt, then verified, are the same tokens."""
    _same_row(subject, "prompt lookup", prompt_lookup_num_tokens=3)


def assisted(subject: Subject) -> None:
    """Tokens that another model drafts, then verified, are the same tokens."""
    _same_row(subject, "assisted generation", assistant_model=subject.case.build(seed=9))


def inputs_embeds(subject: Subject) -> None:
    """A prompt that is given as embeddings gives the same tokens."""
    with torch.no_grad():
        embeddings = subject.bare.get_input_embeddings()(subject.prompt())
    written = subject.generate(inputs_embeds=embeddings)
    complaint = "generating from embeddings writes other tokens"
    assert_same_tokens(written[:, -NEW:], subject.continuation[:, -NEW:], complaint)


def second_turn(subject: Subject) -> None:
    """A conversation goes on from its cache as if it were read anew, and the cache holds its own tokens only."""
    prompt = subject.prompt()
    first = subject.generate(prompt=prompt, return_dict_in_generate=True)
    length, written = first.past_key_values.get_seq_length(), first.sequences.shape[1]
    assert length == written - 1, f"the cache does not hold the text and nothing else ({length} of {written} tokens)"
    text = torch.cat([first.sequences, tokens(2, 3, seed=4)], dim=1)
    anew, cached = (_go_on(subject, prompt, text, **kept) for kept in ({}, {"past_key_values": first.past_key_values}))
    assert_same_tokens(cached, anew, "a second turn from the cache writes other tokens")


def _go_on(subject: Subject, prompt: Tensor, text: Tensor, **options: Any) -> Tensor:
    if subject.encodes:
        return subject.generate(prompt=prompt, decoder_input_ids=text, **options)
    seen = torch.ones_like(text)  # left to itself, generate() takes a written padding token for padding
    return subject.generate(prompt=text, attention_mask=seen, **options)


def _same(subject: Subject, what: str, **options: Any) -> None:
    assert_same_tokens(subject.generate(**options), subject.continuation, f"{what} writes other tokens")


def _same_row(subject: Subject, what: str, **options: Any) -> None:
    prompt = subject.prompt(rows=1)
    plain = subject.generate(prompt=prompt)
    assert_same_tokens(subject.generate(prompt=prompt, **options), plain, f"{what} writes other tokens")


CHECKS = [greedy, beams, static_cache, no_cache, chunked_prefill, prompt_lookup, assisted, inputs_embeds, second_turn]
