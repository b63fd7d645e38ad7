"""The tasks from the Hugging Face Hub, for those who have no folder of them.

What is read are the parquet files that the Hub makes of a data set (its branch ``refs/convert/parquet``), as plain
tables: no code of a repository runs, and those that are scripts load too, which the ``datasets`` library has given up.
The columns are those of the repositories' cards and scripts; loading over the network could not be tried where this was
written, only the same files from a disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..card.facts import Dataset
from .lines import shown
from .records import Record, Task

PLACE = "hf://datasets/{repository}@refs/convert/parquet/{config}/{split}/*.parquet"
Row = dict[str, Any]


def _each(lines: list[Row], _: str) -> Iterable[Row]:
    return lines


@dataclass(frozen=True)
class HubTask:
    """Where a task is, and how one of its rows becomes a line like those of the files in a folder."""

    repository: str
    config: str  # a folder of the branch; * for the only one, however it is called
    to_line: Callable[[Row], Row]
    license: str = ""  # as its card there says; "" where it says that nobody knows
    kind: str = ""  # the Hub's word for the task, where it is not just writing
    validation: str = "validation"  # what the repository calls that split
    choose: Callable[[list[Row], str], Iterable[Row]] = _each  # the lines of a split of ours


def dataset_of(task: str | None, split: str, file: str | None) -> Dataset:
    """What is known of a split of a task by name, or of a file."""
    hub = HUB.get(task or "")
    if hub is None:
        return Dataset(Path(str(file)).name)
    return Dataset(str(task), hub.repository, hub.license, hub.kind, split)


def load_from_hub(task: Task, split: str) -> list[Record]:
    """Read one split of a task, which the ``datasets`` library downloads once and keeps.

    Raises:
        ImportError: no such library.
        OSError: the Hub cannot be asked, or has it no more.
        ValueError: a row that is not as the task's are.
    """
    hub = HUB[task.name]
    theirs = {"validation": hub.validation}.get(split, split.split("_")[0])
    lines = []
    for number, row in enumerate(_rows(task.name, hub, theirs)):
        place = f"{hub.repository}, {theirs}, row {number}"
        try:
            line = hub.to_line(row)
        except (KeyError, TypeError, AttributeError) as fault:
            raise ValueError(f"{place}: expected other columns ({fault!r}), got {shown(row)}.") from fault
        lines.append(line | {"place": place})
    return [_read(task, line) for line in hub.choose(lines, split)]


def _rows(name: str, hub: HubTask, split: str) -> Iterable[Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            f"task {name!r} is loaded from the Hub by datasets: pip install prefix-peft[hub], or give --data-dir."
        ) from error
    place = PLACE.format(repository=hub.repository, config=hub.config, split=split)
    try:
        return load_dataset("parquet", data_files=place, split="train")
    except Exception as error:  # of sockets, HTTP and file systems: they have no ancestor in common
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"task {name!r} cannot be loaded from the Hub ({place}): {reason}. Give --data-dir with a copy of it, or a "
            "file of your own."
        ) from error


def _read(task: Task, line: Row) -> Record:
    try:
        return replace(task.read_line(line), place=line["place"])
    except ValueError as fault:
        raise ValueError(f"{line['place']}: {fault}") from fault


def _webnlg(row: Row) -> Row:
    """``modified_triple_sets`` is {"mtriple_set": [["subject | property | object", ...]]}, ``lex`` {"text": [...]}."""
    triples = [triple.split(" | ", 2) for triple in row["modified_triple_sets"]["mtriple_set"][0]]
    return {"triples": triples, "references": _texts(row["lex"]["text"]), "category": row["category"]}


# Categories of the challenge's training data; its test set has others too.
SEEN = {
    "Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument", "SportsTeam", "University",
    "WrittenWork",
}  # fmt: skip


def _choose_webnlg(lines: list[Row], split: str) -> Iterator[Row]:
    """The test split has its inputs up to three times: without texts, with them, and the unseen ones by themselves."""
    known = set()
    for line in lines:
        seen, content = line["category"] in SEEN, str((line["triples"], line["references"]))
        if split.startswith("test") and (not line["references"] or content in known):
            continue
        known.add(content)
        if {"test_seen": seen, "test_unseen": not seen}.get(split, True):
            yield line


def _e2e(row: Row) -> Row:
    """``meaning_representation`` is "name[The Vaults], eatType[pub]"."""
    slots = re.findall(r"(\w[\w ]*)\[([^\]]*)\]", row["meaning_representation"])
    return {"mr": dict(slots), "references": [row["human_reference"]]}


def _together(lines: list[Row], _: str) -> Iterable[Row]:
    """E2E has a row for each reference: one line for each input, where it comes first."""
    inputs: dict[tuple[Any, ...], Row] = {}
    for line in lines:
        first = inputs.setdefault(tuple(line["mr"].items()), line)
        if first is not line:
            first["references"] += line["references"]
    return inputs.values()


def _dart(row: Row) -> Row:
    return {"triples": row["tripleset"], "references": _texts(row["annotations"]["text"])}


def _scitldr(row: Row) -> Row:
    return {"article": " ".join(row["source"]), "references": _texts(row["target"])}


def _xsum(row: Row) -> Row:
    return {"document": row["document"], "summary": row["summary"]}


def _texts(texts: list[str]) -> list[str]:
    return [text for text in texts if text.strip()]


WEBNLG_LICENSES = "cc-by-sa-3.0, cc-by-nc-sa-4.0, gfdl"
HUB = {
    "webnlg": HubTask(
        "webnlg-challenge/web_nlg",
        "webnlg_challenge_2017",
        _webnlg,
        WEBNLG_LICENSES,
        validation="dev",
        choose=_choose_webnlg,
    ),
    "e2e": HubTask("tuetschek/e2e_nlg", "*", _e2e, "cc-by-sa-4.0", choose=_together),
    "dart": HubTask("Yale-LILY/dart", "*", _dart, "mit"),
    "scitldr": HubTask("allenai/scitldr", "Abstract", _scitldr, "apache-2.0", "summarization"),
    "xsum": HubTask("EdinburghNLP/xsum", "*", _xsum, kind="summarization"),
}
