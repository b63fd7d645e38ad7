"""Run a notebook from its first cell to its last, offline, and keep what was seen."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import nbformat
from hub_server import environment as a_hub
from nbclient import NotebookClient
from nbformat import NotebookNode

TIME_LIMIT = 600  # seconds for one cell, many times what any takes
TRAINED = re.compile(r"trainable params: ([\d,]+)")

Environment = dict[str, str]

OFFLINE = {"HF_HUB_OFFLINE": "1"}
# What has to run while a notebook of this name runs, such as a server; it says by which variables it is found.
AROUND: dict[str, Callable[[Path], AbstractContextManager[Environment]]] = {"8_hub": a_hub}


@dataclass(frozen=True)
class Seen:
    """One notebook that ran to its end."""

    name: str
    title: str
    about: str  # what its first cell says
    seconds: float  # of the wall clock, the start of the kernel included
    trained: str  # how many numbers, as the notebook itself prints it; "" where it does not


def run(path: Path, directory: Path) -> Seen:
    """Run the notebook at ``path`` in ``directory``, where everything that it writes and the notebook itself stay.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIME_LIMIT, kernel_name="python3", resources={"metadata": {"path": str(directory)}},
        extra_arguments=["--log-level=ERROR"],
    )  # fmt: skip
    began = time.monotonic()
    with AROUND.get(path.stem, lambda _: nullcontext(OFFLINE))(directory) as environment:
        try:
            client.execute(env=os.environ | environment)
        finally:
            nbformat.write(notebook, directory / path.name)
    found = TRAINED.search(printed(notebook))
    return Seen(path.stem, *heading(notebook), time.monotonic() - began, found[1] if found else "")


def heading(notebook: NotebookNode) -> tuple[str, str]:
    """The title of the first cell, and what else it says."""
    title, _, about = notebook.cells[0].source.partition("\n")
    return title.removeprefix("# "), " ".join(about.split())


def printed(notebook: NotebookNode) -> str:
    """All that the cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")
