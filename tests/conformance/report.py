"""The table: every architecture and check, the totals, and why what is excused is excused."""

from __future__ import annotations

import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import families
from runner import CHECKS, EXCUSED, FAIL, NOT_APPLICABLE, PASS, Result
from zoo import MAPPINGS

MARKS = {PASS: "✓", EXCUSED: "○", FAIL: "✗", NOT_APPLICABLE: "\N{EN DASH}"}
TITLES = {"causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}
INTRODUCTION = f"""# Architectures

A tiny random model of every entry of transformers' two auto mappings, behind a prefix of random content, and what was
checked of it. {MARKS[PASS]} holds; {MARKS[EXCUSED]} does not hold without a prefix either (the reasons are listed
below); {MARKS[FAIL]} fails; {MARKS[NOT_APPLICABLE]} does not apply.
"""


def markdown(results: Sequence[Result], command: str) -> str:
    """The whole document."""
    names = list(dict.fromkeys(result.check for result in results))
    parts = [INTRODUCTION, _versions(command), _explanations(names), "## Totals\n", _totals(results, names)]
    for task, title in TITLES.items():
        rows = [result for result in results if result.case.task == task]
        if rows:
            parts += [f"## {title}\n", _table(rows, names)]
    parts += _reasons("## Failures\n", results, FAIL) + _reasons("## Excuses\n", results, EXCUSED)
    return "\n".join([*parts, _not_built()])


def totals(results: Iterable[Result]) -> Counter[str]:
    """How many results there are of each outcome."""
    return Counter(result.outcome for result in results)


def _versions(command: str) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"Written by `{command}` with {packages}, Python {platform.python_version()}.\n"


def _explanations(names: Sequence[str]) -> str:
    lines = [f"- **{name}**: {' '.join((CHECKS[name].__doc__ or '').split())}" for name in names]
    return "## Checks\n\n" + "\n".join(lines) + "\n"


def _totals(results: Sequence[Result], names: Sequence[str]) -> str:
    lines = [f"| check | {' | '.join(MARKS.values())} | seconds |", "|---|--:|--:|--:|--:|--:|"]
    for name in names:
        lines.append(_sums(name, [result for result in results if result.check == name]))
    return "\n".join([*lines, _sums("**all**", results)]) + "\n"


def _sums(name: str, results: Sequence[Result]) -> str:
    counts = totals(results)
    seconds = sum(result.seconds for result in results)
    return f"| {name} | " + " | ".join(str(counts[outcome]) for outcome in MARKS) + f" | {seconds:.0f} |"


def _table(results: Sequence[Result], names: Sequence[str]) -> str:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for result in results:
        rows[result.case.name][result.check] = MARKS[result.outcome]
    head = ["| | " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---|" + ":-:|" * len(names)]
    body = [f"| {name} | " + " | ".join(marks[check] for check in names) + " |" for name, marks in sorted(rows.items())]
    return "\n".join(head + body) + "\n"


def _reasons(title: str, results: Sequence[Result], outcome: str) -> list[str]:
    """Who shares a reason, by check."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in results:
        if result.outcome == outcome:
            grouped[result.check, result.reason].append(result.case.name)
    order = {name: index for index, name in enumerate(CHECKS)}
    lines = [
        f"- **{check}**: {_escaped(reason)}: {' '.join(sorted(names))}"
        for (check, reason), names in sorted(grouped.items(), key=lambda item: (order[item[0][0]], -len(item[1])))
    ]
    return [title, "\n".join(lines) + "\n"] if lines else []


def _escaped(reason: str) -> str:
    return re.sub(r"([<>|*_`\[\]])", r"\\\1", reason)


def _not_built() -> str:
    count = sum(map(len, MAPPINGS.values()))
    lines = [f"- {name} ({task}): {reason}" for (task, name), reason in sorted(families.NOT_BUILT.items())]
    return f"## Not run\n\nOf the {count} entries these cannot run alone on text:\n\n" + "\n".join(lines) + "\n"
