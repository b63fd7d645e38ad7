"""The tables: short for the terminal, and the page for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from prefix_peft.commands.report import markdown_table

from .goals import goal, over_baseline, reached
from .results import Record
from .rounds import Case, spread
from .sides import ORDER, OURS

INTRODUCTION = """# Performance

What a prefix costs beside the bare model, and what PEFT's own methods cost. This page is written by the commands that
it names; every figure was measured by them, and all samples are in the `results.json` that they write.

All sides stand in one process, share one set of frozen weights, and take turns: every round runs each of them once, in
an order that turns, after one round to warm up. A ratio is the median over the rounds of the ratio to the bare model in
the same round. In the tables, brackets compare with the side that has none: the bare model, or PEFT's prefix tuning
where the bare model has nothing to do.
"""


def table(cases: Iterable[Case]) -> str:
    """Cases as rows, sides as columns: the median, and how it compares with the baseline."""
    cases = list(cases)
    sides = sides_of(cases)
    rows = [[f"{case.name} ({case.unit})", *(cell(case, side) for side in sides), _goal(case)] for case in cases]
    return markdown_table(["", *sides, "goal"], rows)


def sides_of(cases: Iterable[Case]) -> list[str]:
    """The sides of some cases, the bare model first."""
    sides = dict.fromkeys(side for case in cases for side in (*case.samples, *case.failures))
    return sorted(sides, key=lambda side: ORDER.index(side.partition(",")[0]))  # what is after the comma stays as found


def cell(case: Case, side: str) -> str:
    """'12.3 (1.05x)'; 'fails' where the side cannot do it, a dash where it was not asked to."""
    if side not in case.samples:
        return "fails" if side in case.failures else "-"
    median, figure = f"{spread(case.samples[side])['median']:.4g}", over_baseline(case, side)
    return median if figure is None or side == case.baseline else f"{median} ({_compared(case, figure)})"


def page(records: Mapping[str, Record], how: Mapping[str, str], plot: Path | None) -> str:
    """All of docs/performance.md."""
    parts = [INTRODUCTION]
    if plot is not None:
        parts.append(f"![Every side's cost over the bare model's]({plot.name})\n")
    parts += ["## Goals\n", goals(records), ""]
    for name, record in records.items():
        parts += [f"## {name.capitalize()}\n", how[name], "", table(record.cases), ""]
        parts += [*_failures(record.cases), ""] if any(case.failures for case in record.cases) else []
        parts += [f"`{record.command}`, {_machine(record.machine)}; {_model(record.settings)}.", ""]
        parts += ["<details><summary>Spread over the rounds</summary>\n", spreads(record.cases), "\n</details>\n"]
    return "\n".join(parts)


def goals(records: Mapping[str, Record]) -> str:
    """Every case that has a goal, and whether it is reached."""
    rows = [
        [
            case.measure,
            case.name,
            _goal(case),
            _ours(case),
            {True: "yes", False: "no", None: "not measured"}[reached(case)],
        ]
        for record in records.values()
        for case in record.cases
        if goal(case) is not None
    ]
    return markdown_table(["", "case", "goal", OURS, "reached"], rows) if rows else "No case of this run has a goal."


def spreads(cases: Iterable[Case]) -> str:
    """Least, quartiles and median of each side."""
    rows = [
        [case.name, side, *(f"{spread(samples)[key]:.4g}" for key in keys), case.unit]
        for keys in [("minimum", "lower_quartile", "median", "upper_quartile")]
        for case in cases
        for side, samples in case.samples.items()
    ]
    return markdown_table(["", "side", "least", "lower quartile", "median", "upper quartile", "unit"], rows)


def _ours(case: Case) -> str:
    figure = over_baseline(case, OURS)
    return "-" if figure is None else _compared(case, figure)


def _compared(case: Case, figure: float) -> str:
    return f"{figure:.2f}x" if case.compare == "ratio" else f"{figure:+.4g} {case.unit}"


def _goal(case: Case) -> str:
    most = goal(case)
    return "" if most is None else f"<= {_compared(case, most)}"


def _failures(cases: Iterable[Case]) -> list[str]:
    return [
        f"- {case.name}, {side} fails: {reason.splitlines()[0][:300]}"
        for case in cases
        for side, reason in case.failures.items()
    ]


def _machine(machine: Mapping[str, object]) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft", "prefix-peft"))
    return (
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, on {machine['device']}; {versions}"
    )


def _model(settings: Mapping[str, object]) -> str:
    return (
        "random Llama of {layers} layers, width {width}, {heads} heads, {key_value_heads} key/value heads, "
        "intermediate size {intermediate_size}, vocabulary {vocabulary}, {dtype}, sdpa; {rounds} rounds"
    ).format(**settings)
