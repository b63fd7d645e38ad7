"""The demonstration runs offline and shows what it promises; how much it gains is the full run's to show."""

import re

from safetensors.torch import load_file

from prefix_peft.demo import run


def test_a_short_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run.main(["--output-dir", str(tmp_path), "--max-steps", "12", "--num-virtual-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert "training the prefix: 100%" in out
    assert [len(re.findall(rf"^ *{row} ", out, re.M)) for row in ("record", "no prefix", "prefix", "reference")] == [
        8
    ] * 4
    rows = dict(re.findall(r"^\| (\S.*?) +\| .*?\| (\S*).* \|$", out, re.M))
    numbers = sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())
    assert rows["trained parameters"] == f"{numbers:,}"
    assert {"BLEU", "chrF", "loss", "size of the file", "seconds, training"} <= rows.keys()
    loss = re.search(r"\| loss +\| ([\d.]+) +\| ([\d.]+)", out)
    assert loss is not None and float(loss[2]) < float(loss[1])
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    card = (tmp_path / "README.md").read_text()
    assert "bleu with prefix" in card and "base_model: prefix-peft-demo-base" in card


def test_the_base_fits_into_six_megabytes():
    assert sum(path.stat().st_size for path in run.BASE.iterdir()) <= 6_000_000
