"""The notebooks are in step with their sources, and one of them runs; the command runs them all."""

from __future__ import annotations

import json

import pytest
from pairing import EXAMPLES, notebook_of, paired, sources
from running import heading, run

NAMES = [source.stem for source in sources()]


@pytest.mark.parametrize("source", sources(), ids=NAMES)
def test_a_notebook_is_its_source_without_outputs(source):
    written = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == paired(source), f"write it anew: python tests/notebooks --write {source.name[0]}"
    code = [cell for cell in json.loads(written)["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_every_notebook_has_a_source_and_a_row_in_the_table():
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == NAMES
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for source in sources():
        title, about = heading(notebook_of(source))
        assert f"[{title}]({source.stem}.ipynb)" in page and about in page


@pytest.mark.parametrize("source", sources(), ids=NAMES)
def test_a_notebook_is_a_program_too(source):
    compile(source.read_text(encoding="utf-8"), source.name, "exec")


def test_a_notebook_runs(tmp_path):
    seen = run(EXAMPLES / "1_quickstart.ipynb", tmp_path)
    assert seen.trained == "19,200"
    assert (tmp_path / "runs" / "lighthouses" / "adapter_model.safetensors").stat().st_size > 4 * 19_200
