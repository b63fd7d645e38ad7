"""The examples run as they stand."""

import importlib.util
from pathlib import Path


def test_quickstart(capsys):
    path = Path(__file__).parent.parent / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    text = quickstart.main(["--steps", "90"])
    assert text.startswith("Sailors bless"), "the style of the records is learnt within a hundred steps"
    assert "trainable params: 19,200" in capsys.readouterr().out
