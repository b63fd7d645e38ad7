"""What a drill found: how often something was tried, and how often it held."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prefix_peft.commands.report import markdown_table


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    what: str  # what was done
    held_if: str  # what had to be true each time
    tried: int
    held: int
    peft: str = "-"  # what PEFT's own prefix tuning does with the same; '-' where it has nothing to do with it
    faults: tuple[str, ...] = ()  # the first few that did not hold, each with all that is needed to see it again


@dataclass
class Counts:
    """What becomes an outcome, counted try by try."""

    tried: int = 0
    held: int = 0
    faults: list[str] = field(default_factory=list)

    def count(self, fault: str) -> None:
        """One more try; ``fault`` is empty where it held."""
        self.tried, self.held = self.tried + 1, self.held + (not fault)
        self.faults += [fault] if fault else []

    def outcome(self, what: str, held_if: str, peft: str = "-") -> Outcome:
        """As a row."""
        return Outcome(what, held_if, self.tried, self.held, peft, tuple(self.faults[:3]))


@dataclass(frozen=True)
class Record:
    """The outcomes of one drill, the command that found them, and the seconds that it took."""

    command: str
    seconds: float
    outcomes: tuple[Outcome, ...]


def table(outcomes: Iterable[Outcome]) -> str:
    """Outcomes as rows."""
    rows = [
        [outcome.what, outcome.held_if, f"{outcome.tried:,}", f"{outcome.held:,}", outcome.peft] for outcome in outcomes
    ]
    return markdown_table(["what was done", "what must hold", "tried", "held", "PEFT's prefix tuning"], rows)


def faults(outcomes: Iterable[Outcome]) -> str:
    """What did not hold, as a list; empty where everything did."""
    return "\n".join(f"- {outcome.what}: {fault}" for outcome in outcomes for fault in outcome.faults)


def page(records: Mapping[str, Record], how: Mapping[str, str], machine: str) -> str:
    """All of docs/drills.md."""
    parts = [INTRODUCTION, f"{machine}.\n"]
    for name, record in records.items():
        parts += [f"## {name.capitalize()}\n", how[name], "", table(record.outcomes), ""]
        parts += [found, ""] if (found := faults(record.outcomes)) else []
        parts += [f"`{record.command}`, {record.seconds:,.0f} s.", ""]
    return "\n".join(parts)


def save(records: Mapping[str, Record], file: Path) -> None:
    """For `load`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: asdict(record) for name, record in records.items()}, indent=1), "utf-8")


def load(file: Path) -> dict[str, Record]:
    """What an earlier command left there; nothing where there is no file."""
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return {name: Record(**{**record, "outcomes": _outcomes(record["outcomes"])}) for name, record in found.items()}


def _outcomes(found: Sequence[Mapping]) -> tuple[Outcome, ...]:
    return tuple(Outcome(**{**outcome, "faults": tuple(outcome["faults"])}) for outcome in found)


INTRODUCTION = """# Drills

What is done to a run, to its files and to a model on purpose, and whether everything still holds. This page is written
by the commands that it names; `python drills --help` lists them, and every count is one that they counted.
"""
