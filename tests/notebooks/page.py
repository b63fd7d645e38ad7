"""The table of the notebooks, examples/README.md."""

from __future__ import annotations

import os
from collections.abc import Sequence

from running import Seen

from prefix_peft.commands.report import markdown_table

PAGE = """# Examples

Each notebook runs at once, offline and on a laptop, on the tiny base model that comes with the package; its third cell
says how to put a real model in its place. Open the `.ipynb` in Jupyter or Colab, or run the `.py`, which is the same:
`python examples/1_quickstart.py`.

{table}

Seconds, with the start of Python, on {machine}; trained parameters are those of the first prefix, where there are
several. Both are what `make notebooks` found, which runs all of them and writes this page.

Two plain programs stand beside them: [`quickstart.py`](quickstart.py) is the first notebook as one function, and
[`accelerate_train.py`](accelerate_train.py) a training loop for one process or many.

Edit the `.py`; `make notebooks` writes the `.ipynb`, whose outputs are left out. A test compares the two.
"""


def page(seen: Sequence[Seen]) -> str:
    """All of examples/README.md."""
    rows = [
        [f"[{notebook.title}]({notebook.name}.ipynb)", notebook.about, f"{notebook.seconds:.0f}", notebook.trained]
        for notebook in seen
    ]
    table = markdown_table(["notebook", "what you will see", "seconds", "trained parameters"], rows)
    return PAGE.format(table=table, machine=_machine())


def _machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    return f"{threads} of {os.cpu_count()} cores"
