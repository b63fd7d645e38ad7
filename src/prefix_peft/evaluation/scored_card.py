"""What an evaluation adds to a prefix's model card: the scores, as a table and as the Hub reads them, and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from peft import PeftConfig

from ..card.facts import results
from ..card.files import CARD, change_card
from ..card.metadata import add_results
from ..card.page import samples, with_section
from ..commands.report import scores_table
from ..data.hub import dataset_of
from .scoring import Evaluation

SHOWN = 3
SYSTEM = "with prefix"


def add_to_card(result: Evaluation) -> str:
    """Put scores and samples into the card beside the prefix, unless somebody edited it; says which."""
    given, directory = result.arguments, Path(result.arguments.adapter)
    dataset = dataset_of(given.task, given.split, given.data_file)
    measured = results(result.scores[SYSTEM], dataset, PeftConfig.from_pretrained(str(directory)).task_type)
    texts = [(record.source, text) for record, text in zip(result.records, result.generations[SYSTEM], strict=True)]

    def change(card: ModelCard) -> None:
        data: Any = card.data
        add_results(data, measured, directory.resolve().name)
        table = f"{_conditions(result)}\n\n{scores_table(result.scores)}"
        card.text = with_section(card.text, "Evaluation", table)
        card.text = with_section(card.text, "Samples", samples(texts[:SHOWN]))

    if change_card(directory, change):
        return f"The scores are in {directory / CARD} now."
    return f"{directory / CARD} was edited by hand and stays as it is; the table above is for it."


def _conditions(result: Evaluation) -> str:
    """On what, and how the texts were written."""
    given = result.arguments
    where = f"{given.task}, {given.split}" if given.task else Path(str(given.data_file)).name
    beams = f"beam search with {given.num_beams} beams" if given.num_beams > 1 else "greedy search"
    return f"On {len(result.records):,} records of {where}, {beams}, scored by the protocol `{given.protocol}`."
