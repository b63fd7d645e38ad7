"""Rows of one batch against each row's own run: padded ones, and rows with prefixes of their own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import tiny
import torch
from subject import (
    LONG,
    NEW,
    WINDOW,
    NotApplicable,
    Subject,
    assert_close,
    assert_same_tokens,
    has_window,
)
from torch import Tensor

from prefix_peft import PrefixConfig

ROWS = ["short", "__base__", "default"]


def padded_forward(subject: Subject) -> None:
    """Rows of a padded batch have the logits that they have alone, given their positions."""
    _compare_padded(subject, subject.model, 4, 7)


def padded_generate(subject: Subject) -> None:
    """Rows of a padded batch write what they write alone."""
    rows, padded, mask = _padded(subject, 4, 7)
    together = subject.generate(prompt=padded, attention_mask=mask)
    for i, row in enumerate(rows):
        alone = subject.generate(prompt=row)
        assert_same_tokens(together[i, -NEW:], alone[0, -NEW:], "padding changes what is written")


def padded_window(subject: Subject) -> None:
    """Padded rows that are longer than the model's sliding windows have the logits that they have alone."""
    if not has_window(subject):
        raise NotApplicable("has no sliding window")
    _compare_padded(subject, subject.build(window=WINDOW), LONG // 2, LONG)


def _compare_padded(subject: Subject, model: Any, short: int, long: int) -> None:
    rows, padded, mask = _padded(subject, short, long)
    options: dict[str, Tensor] = {"attention_mask": mask}
    if not subject.encodes and subject.accepts("position_ids"):
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    texts = subject.text(padded) if subject.encodes else None
    with torch.no_grad():
        together = subject.logits(model, padded, padded if texts is None else texts, **options)
        for i, row in enumerate(rows):
            alone = subject.logits(model, row, row if texts is None else texts[i : i + 1])
            assert_close(together[i : i + 1, -alone.shape[1] :], alone, "padding changes the logits")


def _padded(subject: Subject, short: int, long: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows of two lengths, alone and in one batch: texts to encode are padded on the right, others on the left."""
    rows = [subject.prompt(1, short, seed=1), subject.prompt(1, long, seed=2)]
    padded = torch.full((2, long), subject.bare.generation_config.pad_token_id)
    mask = torch.zeros(2, long, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(row.shape[1]) if subject.encodes else slice(long - row.shape[1], None)
        padded[i, place], mask[i, place] = row[0], 1
    return rows, padded, mask


def rows(subject: Subject) -> None:
    """Rows of one batch with prefixes of different lengths and with none have the logits of separate runs."""
    model, prompt = _several(subject), subject.prompt(rows=len(ROWS))
    text = subject.text(prompt)
    with torch.no_grad():
        together = subject.logits(model, prompt, text, **_routed(subject))
        for i, name in enumerate(ROWS):
            row = slice(i, i + 1)
            alone = _alone(subject, model, name, lambda row=row: subject.logits(model, prompt[row], text[row]))
            assert_close(together[row], alone, "rows of a batch have other logits than alone")


def rows_generate(subject: Subject) -> None:
    """Such rows write what they write alone."""
    _rows_write(subject, num_beams=1)


def rows_beams(subject: Subject) -> None:
    """Such rows find the beams that they find alone."""
    _rows_write(subject, num_beams=3)


def _rows_write(subject: Subject, num_beams: int) -> None:
    model, prompt = _several(subject), subject.prompt(rows=len(ROWS))
    together = subject.generate(model, prompt, num_beams=num_beams, **_routed(subject))
    for i, name in enumerate(ROWS):
        row = slice(i, i + 1)
        alone = _alone(subject, model, name, lambda row=row: subject.generate(model, prompt[row], num_beams=num_beams))
        assert_same_tokens(together[row], alone, "rows of a batch write other tokens than alone")


def _several(subject: Subject) -> Any:
    model: Any = subject.build()
    if subject.wrapped:
        config = PrefixConfig(num_virtual_tokens=3, task_type=model.peft_config["default"].task_type)
        model.add_adapter("short", config)
        tiny.fill(model).eval()
    return model


def _routed(subject: Subject) -> dict[str, list[str]]:
    return {"adapter_names": ROWS} if subject.wrapped else {}


def _alone(subject: Subject, model: Any, name: str, run: Callable[[], Tensor]) -> Tensor:
    if subject.wrapped and name != "__base__":
        model.set_adapter(name)
    with model.disable_adapter() if subject.wrapped and name == "__base__" else nullcontext():
        return run()


CHECKS = [padded_forward, padded_generate, padded_window, rows, rows_generate, rows_beams]
