"""``prefix-peft inspect --adapter A``: look inside a prefix, and write down what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from ..commands.models import load_prefix, recall_separator
from ..commands.report import sites_table
from ..inspecting import inspect
from ..planning.arguments import InspectArguments
from ..whole import write_text
from .comparing import compare
from .heatmap import HeatMap, maps_of_masses, maps_of_norms
from .masses import Masses, attention_mass
from .page import page
from .picture import draw
from .release import read_release
from .shades import shaded
from .tables import Table, comparison_tables, facts_table, masses_table, norms_table, virtual_table, words_table
from .words import nearest_words

NOTES = [
    "The share of attention that goes to the prefix is exact: it is what the model's own attention function gives its "
    "virtual tokens, of the same softmax. The first tokens of a text see little else than the prefix.",
]


def look_inside(arguments: InspectArguments) -> str:
    """What is to be printed; a picture and a page are written where they are asked for."""
    assert arguments.adapter is not None
    release = read_release(arguments.adapter)
    tables, maps = [facts_table(release), norms_table(release), virtual_table(release)], []
    if arguments.compare:
        other = read_release(arguments.compare)
        tables += comparison_tables(compare(release, other), release.source, other.source)
    printed, title = "", f"Inside the prefix “{Path(arguments.adapter).name}”"
    if arguments.model:
        model, tokenizer = load_prefix(arguments.model, arguments.adapter, arguments.bits, arguments.dtype)
        printed = sites_table(inspect(model)) + "\n\n"
        if arguments.words:
            tables.append(words_table(nearest_words(model, tokenizer, arguments.words)))
        if arguments.text is not None:
            masses = _read(model, tokenizer, arguments)
            tables.append(masses_table(masses))
            maps, title = maps_of_masses(masses), f"Attention to the prefix “{Path(arguments.adapter).name}”"
    shown = [*(table.in_markdown() for table in tables), *map(shaded, maps)]
    return printed + "\n\n".join([*shown, *_write(arguments, title, tables, maps, maps_of_norms(release))])


def _read(model: PeftModel, tokenizer: PreTrainedTokenizerBase, arguments: InspectArguments) -> Masses:
    separator = recall_separator(str(arguments.adapter), arguments.separator)
    return attention_mass(model, tokenizer, str(arguments.text), arguments.target, separator)


def _write(
    arguments: InspectArguments, title: str, tables: Sequence[Table], maps: Sequence[HeatMap], norms: Sequence[HeatMap]
) -> list[str]:
    """Write the files that are asked for, and say so."""
    if arguments.png:
        draw(title, maps or norms, Path(arguments.png))
    if arguments.html:
        write_text(Path(arguments.html), page(title, NOTES if maps else [], [*maps, *tables, *norms]))
    return [f"Written: {file}" for file in (arguments.png, arguments.html) if file]
