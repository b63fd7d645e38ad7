"""The examples run as they stand."""

import importlib.util
from pathlib import Path


def example(name):
    """The module of this name, which no package holds."""
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart(capsys):
    text = example("quickstart").main(["--steps", "90"])
    assert text.startswith("Sailors bless"), "the style of the records is learnt within a hundred steps"
    assert "trainable params: 19,200" in capsys.readouterr().out


def test_accelerate_train(tmp_path):
    """On one rank; the same program runs on several."""
    losses = example("accelerate_train").main(["--steps", "12", "--output-dir", str(tmp_path)])
    assert losses[-1] < losses[0] - 0.3
    assert (tmp_path / "adapter_model.safetensors").is_file()
