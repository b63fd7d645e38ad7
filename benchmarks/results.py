"""results.json: every sample of every measure, with the machine and the command that it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .goals import goal, over_baseline
from .rounds import Case, spread


@dataclass
class Record:
    """One measure as it was taken."""

    command: str
    machine: dict[str, object]
    settings: dict[str, Any]
    cases: list[Case]


def save(records: dict[str, Record], path: Path) -> None:
    """Write ``records`` by measure; each side's samples with what follows from them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: _written(record) for name, record in records.items()}, indent=1) + "\n", "utf-8")


def load(path: Path) -> dict[str, Record]:
    """What `save` wrote; nothing where there is no file."""
    if not path.exists():
        return {}
    return {name: _read(record) for name, record in json.loads(path.read_text("utf-8")).items()}


def _written(record: Record) -> dict[str, Any]:
    return asdict(record) | {"cases": [_case(case) for case in record.cases]}


def _case(case: Case) -> dict[str, Any]:
    sides = {
        side: {**spread(samples), "over_baseline": over_baseline(case, side), "rounds": samples}
        for side, samples in case.samples.items()
    }
    return {key: value for key, value in asdict(case).items() if key != "samples"} | {
        "goal": goal(case),
        "sides": sides,
    }


def _read(record: dict[str, Any]) -> Record:
    cases = []
    for case in record["cases"]:
        samples = {side: figures["rounds"] for side, figures in case["sides"].items()}
        cases.append(Case(**{k: v for k, v in case.items() if k not in ("goal", "sides")}, samples=samples))
    return Record(record["command"], record["machine"], record["settings"], cases)
