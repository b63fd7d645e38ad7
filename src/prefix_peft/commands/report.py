"""What a run shows: tables in the terminal, and the learning curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..inspecting import SiteReport


def scores_table(scores: Mapping[str, Mapping[str, float]], digits: int = 2) -> str:
    """Systems as rows, metrics as columns, in Markdown, which a terminal shows as well as a README does."""
    metrics = list(next(iter(scores.values())))
    rows = [[system, *(f"{values[metric]:.{digits}f}" for metric in metrics)] for system, values in scores.items()]
    return markdown_table(["", *metrics], rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" if i != 1 else f"|-{line}-|" for i, line in enumerate(lines))


def sites_table(reports: Sequence[SiteReport]) -> str:
    """The sites of a wrapped model as rows: what each carries and how it attends, and what all weigh together."""
    names = list(dict.fromkeys(name for report in reports for name in report.lengths))
    rows = [
        [
            site.name, site.role, str(site.num_key_value_heads), str(site.key_dim), str(site.value_dim),
            *(str(report.lengths.get(name, 0)) for name in names),
            f"{report.form} ({report.reason})" if report.reason else report.form,
        ]
        for report, site in ((report, report.site) for report in reports)
    ]  # fmt: skip
    heads = [f"P of {name}" for name in names]
    table = markdown_table(["site", "role", "key/value heads", "key dim", "value dim", *heads, "attention"], rows)
    sizes = [sum(report.parameters(name) for report in reports if name in report.lengths) for name in names]
    totals = [f"{name}: {size:,} numbers, {4 * size / 2**20:.2f} MiB" for name, size in zip(names, sizes, strict=True)]
    return "\n".join([table, "", *totals])


def plot_learning_curve(log: Sequence[Mapping[str, float]], path: Path) -> Path | None:
    """Training and validation loss against the step, as a PNG; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No learning curve: pip install prefix-peft[plot]")
        return None
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.5, markersize=4)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per target token)", title="Learning curve of the prefix")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return path
