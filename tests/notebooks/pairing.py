"""A notebook beside its source: the .py is written and reviewed, the .ipynb is what Jupyter and Colab open."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """The sources of all notebooks, in their order."""
    return sorted(EXAMPLES.glob("[0-9]_*.py"))


def notebook_of(source: Path) -> NotebookNode:
    """The cells of a source in percent format, without outputs; the same source always gives the same notebook."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = str(number)  # jupytext draws them at random
    return notebook


def paired(source: Path) -> str:
    """What ``source`` has beside it, as a file."""
    return nbformat.writes(notebook_of(source)).rstrip("\n") + "\n"


def pair(source: Path) -> Path:
    """Write the notebook beside its source."""
    path = source.with_suffix(".ipynb")
    path.write_text(paired(source), encoding="utf-8")
    return path
