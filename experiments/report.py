"""The tables of an experiment, and docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from prefix_peft.commands.report import markdown_table

from .cell import Result
from .experiment import Experiment
from .figures import figure, gathered, main_metric, metrics_of

SOURCES = 8  # of which texts are shown, as in the paper
WIDEST = 8  # columns of a table


def shown(experiment: Experiment, results: Sequence[Result]) -> str:
    """A table for each task and split; texts side by side where the question is how they read."""
    if experiment.texts:
        return side_by_side(experiment, results)
    groups = gathered(experiment, results)
    parts = dict.fromkeys((task, split) for task, split, *_ in groups)
    return "\n\n".join(f"**{task}, {split}**\n\n{_table(experiment, results, task, split)}" for task, split in parts)


def _table(experiment: Experiment, results: Sequence[Result], task: str, split: str) -> str:
    return (_by_place if experiment.x else _by_metric)(experiment, results, task, split)


def _by_metric(experiment: Experiment, results: Sequence[Result], task: str, split: str) -> str:
    """Lines as rows, metrics as columns."""
    groups = {key[2]: found for key, found in gathered(experiment, results).items() if key[:2] == (task, split)}
    metrics = metrics_of(next(iter(groups.values()))[0].scores[split])
    rows = [
        [line, _size(found[0]), *(_cell(found, split, metric) for metric in metrics), str(len(found))]
        for line, found in groups.items()
    ]
    return markdown_table(["", "trained", *metrics, "runs"], rows)


def _by_place(experiment: Experiment, results: Sequence[Result], task: str, split: str) -> str:
    """Lines as rows, places along the axis as columns, of the main metric."""
    groups = {key[2:]: found for key, found in gathered(experiment, results).items() if key[:2] == (task, split)}
    places = sorted(dict.fromkeys(place for _, place in groups))
    metric = main_metric(next(iter(groups.values()))[0].scores[split])
    if len(places) > WIDEST:
        rows = [[line, f"{place:g}", _cell(found, split, metric)] for (line, place), found in sorted(groups.items())]
        return markdown_table(["", str(experiment.x), metric], rows)
    rows = [
        [line, *(_cell(groups.get((line, place), []), split, metric) for place in places)]
        for line in dict.fromkeys(line for line, _ in groups)
    ]
    return markdown_table([f"{metric} by {experiment.x}", *(f"{place:.6g}" for place in places)], rows)


def _cell(results: Sequence[Result], split: str, metric: str) -> str:
    found = figure(results, split, metric)
    return "-" if found is None else found.shown(metric)


def _size(result: Result) -> str:
    return f"{result.parameters:,} ({result.parameters / result.of:.2%})"


def side_by_side(experiment: Experiment, results: Sequence[Result]) -> str:
    """What was written for the same sources, by line and place along the axis."""
    groups = gathered(experiment, results)
    parts = []
    for (task, split), number in product(dict.fromkeys(key[:2] for key in groups), range(SOURCES)):
        found = {key[2:]: rows[0].samples[split] for key, rows in groups.items() if key[:2] == (task, split)}
        source = next(iter(found.values()))[number][0]
        rows = [[line, str(place), texts[number][1]] for (line, place), texts in sorted(found.items(), key=str)]
        parts.append(f"**{task}**: {source}\n\n" + markdown_table(["", str(experiment.x), "text"], rows))
    return "\n\n".join(parts)
