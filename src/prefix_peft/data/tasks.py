"""Records to train and evaluate on: any JSON lines file, and the data sets of Li & Liang (2021) by name.

A record is one input with all its references. The named tasks are linearised as the paper's code does it
(github.com/XiangLi1999/PrefixTuning, ``language_modeling.py``), so that its numbers can be compared with.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .hub import load_from_hub
from .lines import read_objects, shown
from .records import Record, Task


def read_jsonl(path: str | os.PathLike[str]) -> list[Record]:
    """Read ``{"source": str, "target": str}`` or ``{"source": str, "references": [str, ...]}``, one object per line.

    Further fields but ``id`` are ignored, and so are blank lines. Raises ValueError that names the file and the line.
    """
    return _read(Path(path), _read_plain)


def read_answers(path: str | os.PathLike[str]) -> list[list[str]]:
    """Read the references of each line of such a file, which needs no source; raises what `read_jsonl` does."""
    return [list(record.references) for record in _read(Path(path), lambda line: Record("", _answers(line)))]


def read_predictions(path: str | os.PathLike[str]) -> list[str]:
    """Read one text a line; an empty line is an empty text. Raises ValueError where no line has a text."""
    data = Path(path).read_bytes()
    lines = data.removesuffix(b"\n").split(b"\n")
    if not data.strip():
        raise ValueError(f"{path} has no text; expected one prediction a line.")
    try:
        return [line.decode("utf-8-sig" if number == 0 else "utf-8").strip() for number, line in enumerate(lines)]
    except UnicodeDecodeError as fault:
        raise ValueError(f"{path}: expected UTF-8 text ({fault}).") from None


def load_task(name: str, data_dir: str | os.PathLike[str] | None, split: str) -> list[Record]:
    """Read one split of a task in ``TASKS`` from the files in ``data_dir/name``, or from the Hub where that is None.

    Raises ValueError for an unknown task or split and for a faulty line, FileNotFoundError for a missing file; from the
    Hub what `load_from_hub` does.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {sorted(TASKS)}, or read a file with read_jsonl.")
    task = TASKS[name]
    if split not in task.splits:
        raise ValueError(f"task {name!r} has no split {split!r}; choose from {sorted(task.splits)}.")
    if data_dir is None:
        return load_from_hub(task, split)
    paths = [Path(data_dir) / name / file for file in task.splits[split]]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; data_dir must be the folder that holds {name}/{path.name}.")
    return [record for path in paths for record in _read(path, task.read_line)]


def training_pairs(records: Iterable[Record]) -> list[tuple[str, str]]:
    """(source, reference) for every reference: each is a training example of its own, as in the paper's code."""
    return [(record.source, reference) for record in records for reference in record.references]


def _read(path: Path, read_line: Callable[[dict[str, Any]], Record]) -> list[Record]:
    records = []
    for number, line in read_objects(path):
        try:
            record = read_line(line)
        except ValueError as fault:
            raise ValueError(f"{path}, line {number}: {fault}") from fault
        name = line.get("id")
        known = name if isinstance(name, (str, int)) else None
        records.append(replace(record, id=known, place=f"{path.name}:{number}"))
    return records


def _read_plain(line: dict[str, Any]) -> Record:
    references = _answers(line)
    return Record(_text(line, "source"), references)


def _answers(line: dict[str, Any]) -> tuple[str, ...]:
    if ("target" in line) == ("references" in line):
        raise ValueError(f"expected one of 'target' and 'references', got the fields {shown(sorted(line))}.")
    return (_text(line, "target"),) if "target" in line else _references(line)


def _read_webnlg(line: dict[str, Any]) -> Record:
    """`` | s : p : o | s : p : o``, names as released (underscores, quotation marks).

    LineByLineWebNLGTextDataset writes `` | `` before the first triple too. The paper's generation script means to do
    the same but tests the wrong index, so the first input of its file is written otherwise; training's form is used.
    """
    return Record("".join(f" | {s} : {p} : {o}" for s, p, o in _triples(line)), _references(line))


def _read_dart(line: dict[str, Any]) -> Record:
    """``s : p : o | s : p : o`` with the property in lower case, as LineByLineTriplesTextDataset writes it."""
    return Record(" | ".join(f"{s} : {p.lower()} : {o}" for s, p, o in _triples(line)), _references(line))


E2E_SLOTS = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def _read_e2e(line: dict[str, Any]) -> Record:
    """``name : The Vaults | Type : pub | price : more than £ 30``, as in the paper's ``src1_train.txt``.

    The references are the data set's own; the paper trains on a tokenised form of them.
    """
    slots = _field(line, "mr")
    if not isinstance(slots, dict) or not slots or not all(isinstance(value, str) for value in slots.values()):
        raise ValueError(f"'mr' must be an object of strings, not empty, got {shown(slots)}.")
    if "priceRange" in slots:
        slots = slots | {"priceRange": slots["priceRange"].replace("£", "£ ").replace("-", " - ")}
    return Record(" | ".join(f"{E2E_SLOTS.get(k, k)} : {v}" for k, v in slots.items()), _references(line))


def _read_scitldr(line: dict[str, Any]) -> Record:
    return Record(_text(line, "article"), _references(line))


def _read_xsum(line: dict[str, Any]) -> Record:
    return Record(_text(line, "document"), (_text(line, "summary"),))


def _triples(line: dict[str, Any]) -> list[list[str]]:
    triples = _field(line, "triples")
    if not isinstance(triples, list) or not triples or not all(_is_triple(triple) for triple in triples):
        raise ValueError(f"'triples' must be a list of [subject, property, object], not empty, got {shown(triples)}.")
    return triples


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value)


def _references(line: dict[str, Any]) -> tuple[str, ...]:
    references = _field(line, "references")
    if not isinstance(references, list) or not references:
        raise ValueError(f"'references' must be a list of strings, not empty, got {shown(references)}.")
    return tuple(_checked(reference, "each of 'references'") for reference in references)


def _text(line: dict[str, Any], name: str) -> str:
    return _checked(_field(line, name), repr(name))


def _field(line: dict[str, Any], name: str) -> Any:
    if name not in line:
        raise ValueError(f"expected a field {name!r}, got the fields {shown(sorted(line))}.")
    return line[name]


def _checked(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} must be a string that is not blank, got {shown(value)}.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # JSON can escape it, no tokenizer can read it
        raise ValueError(f"{what} must be text, got half of a surrogate pair in {shown(value)}.")
    return value


_SPLITS = {"train": ("train.jsonl",), "validation": ("dev.jsonl",), "test": ("test.jsonl",)}
_SEEN, _UNSEEN = ("test_seen.jsonl",), ("test_unseen.jsonl",)  # categories that occur in training, and that do not

TASKS = {
    "webnlg": Task(
        "webnlg", _SPLITS | {"test": _SEEN + _UNSEEN, "test_seen": _SEEN, "test_unseen": _UNSEEN}, _read_webnlg
    ),
    "e2e": Task("e2e", _SPLITS, _read_e2e),
    "dart": Task("dart", _SPLITS, _read_dart),
    "scitldr": Task("scitldr", _SPLITS, _read_scitldr),
    "xsum": Task("xsum", _SPLITS | {"validation": ("validation.jsonl",)}, _read_xsum),
}
