"""The experiments: what a cell is, what is kept of it, how figures are made, and one run from command to page."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drills import runs
from experiments import data, grids, rates
from experiments.catalogue import EXPERIMENTS
from experiments.cell import Cell, Result
from experiments.command import main
from experiments.experiment import Choice
from experiments.figures import Figure, gathered
from experiments.methods import METHODS
from experiments.page import scale, write_page
from experiments.plots import draw
from experiments.recipes import as_in_the_paper
from experiments.report import shown
from experiments.store import Store
from prefix_peft.commands.arguments import TrainArguments

CELL = Cell(base="tiny", task="e2e", method="prefix", knobs=(("num_virtual_tokens", 3),))


def result_of(cell: Cell, bleu: float = 1.0, experiment: str = "table", **fields: object) -> Result:
    given = {"parameters": 10, "of": 100, "learning_rate": 0.1, "seconds": 1.0} | fields
    scores = {split: {"bleu": bleu, "loss": 2.0} for split in cell.splits}
    return Result(cell, experiment, scores=scores, **given)  # pyright: ignore[reportArgumentType]


def write_task(folder: Path, train: int = 12) -> Path:
    """A folder with E2E of a few records."""
    (folder / "e2e").mkdir(parents=True)
    for split, count in (("train", train), ("dev", 5), ("test", 4)):
        lines = [
            json.dumps({"id": i, "mr": {"name": f"w{5 + i}"}, "references": [f"w{5 + i} w9", f"w{5 + i} w8 w7"]})
            for i in range(count)
        ]
        (folder / "e2e" / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def test_a_cell_is_the_same_wherever_its_base_lies(tmp_path):
    (tmp_path / "a" / "base").mkdir(parents=True)
    here, there = replace(CELL, base=str(tmp_path / "a" / "base")), replace(CELL, base="base")
    assert here.identity == there.identity
    assert len({replace(CELL, seed=seed).identity for seed in range(5)} | {CELL.with_knobs(gate=True).identity}) == 6


def test_results_come_back_from_their_line():
    cell = replace(CELL, splits=("test_seen", "test_unseen"), method="adapter", share=0.03).with_knobs(sites=("cross",))
    result = result_of(cell, samples={"test_seen": [["a", "b"]]}, made_on={"torch": "2"})
    assert Result.from_json(result.as_json()) == result


def test_the_store_survives_a_line_that_was_cut_short(tmp_path):
    cells = [replace(CELL, seed=seed) for seed in range(3)]
    store = Store(tmp_path)
    store.add(result_of(cells[0]))
    with store.file.open("a") as file:
        file.write(result_of(cells[1]).as_json()[:-30])  # killed while it wrote
    again = Store(tmp_path)
    assert again.missing("table", cells) == cells[1:]
    again.add(result_of(cells[1]))
    assert Store(tmp_path).missing("table", cells) == cells[2:]


def test_texts_of_the_data_are_kept_apart(tmp_path):
    result = result_of(CELL, samples={"test": [["a source", "a text"]]})
    Store(tmp_path).add(result)
    assert "a source" not in (tmp_path / "cells.jsonl").read_text("utf-8")
    assert Store(tmp_path).of("table") == [result]


def test_what_one_experiment_found_holds_in_another(tmp_path):
    store = Store(tmp_path)
    store.add(result_of(CELL, experiment="table"))
    assert store.missing("unseen", [CELL, replace(CELL, seed=7)]) == [replace(CELL, seed=7)]
    assert [found.cell for found in Store(tmp_path).of("unseen")] == [CELL]


def test_draws_are_of_their_own_and_the_same_each_time(tmp_path):
    folder = write_task(tmp_path, train=12)
    everything = data.pairs_of(CELL, folder)
    draws = [data.pairs_of(replace(CELL, examples=6, subset=subset), folder) for subset in (0, 1, 0)]
    assert len(everything) == 24
    assert draws[0] == draws[2] != draws[1]
    assert all(len(set(draw)) == 6 and set(draw) <= set(everything) for draw in draws)
    with pytest.raises(ValueError, match="24 training pairs, 25 were asked for"):
        data.pairs_of(replace(CELL, examples=25), folder)


def test_a_task_without_training_data_parts_its_validation_data_by_source(tmp_path):
    (tmp_path / "dart").mkdir()
    lines = [{"triples": [[f"s{i // 2}", "p", "o"]], "references": [f"text {i}"]} for i in range(20)]
    (tmp_path / "dart" / "dev.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    cell = replace(CELL, task="dart", max_records=None)
    trained = {source for source, _ in data.pairs_of(cell, tmp_path)}
    judged = {record.source for record in data.records_of(cell, tmp_path, "validation")}
    assert len(trained) == 8
    assert len(judged) == 2
    assert not trained & judged


def test_figures_are_means_with_the_deviation_over_runs():
    values = [1.0, 2.0, 4.5]
    results = [result_of(replace(CELL, seed=seed), bleu) for seed, bleu in enumerate(values)]
    other = result_of(replace(CELL, method="lora"), 9.0)
    groups = gathered(EXPERIMENTS["table"], [*results, other])
    assert {key[2]: len(found) for key, found in groups.items()} == {"lora": 1, "prefix": 3}
    assert [key[2] for key in groups] == ["lora", "prefix"], "in the methods' order, not in that of the runs"
    figure = Figure.of(values)
    assert (figure.mean, figure.deviation) == (sum(values) / 3, statistics.stdev(values))
    table = shown(EXPERIMENTS["table"], [*results, other])
    assert "2.50 ± 1.80" in table
    assert "10 (10.00%)" in table


def test_every_experiment_asks_for_methods_and_knobs_that_exist():
    choice = Choice("tiny", ("e2e",), (0, 1))
    for experiment in EXPERIMENTS.values():
        cells = experiment.cells(choice)
        assert len({cell.identity for cell in cells}) == len(cells) > 1, experiment.name
        assert {cell.method for cell in cells} <= METHODS.keys()
        assert all(experiment.line(cell) for cell in cells)
        assert experiment.x is None or all(cell.value(experiment.x) is not None for cell in cells)
        assert len({scale(experiment, cell) for cell in cells}) == 1, "one command is one section of the page"


@pytest.mark.parametrize("name", ["starts", "length", "sites", "variants", "mlp"])
def test_methods_that_are_asked_for_are_those_that_run(name):
    experiment = EXPERIMENTS[name]
    choice = Choice("tiny", ("e2e",), (0,))
    asked = {method: experiment.cells(replace(choice, methods=(method,))) for method in ("prefix", "prefix_mlp")}
    for method, cells in asked.items():
        assert {cell.method for cell in cells} == {method}
    lines = [{experiment.line(cell) for cell in cells} for cells in asked.values()]
    assert lines[0].isdisjoint(lines[1]), "what two methods gave is not one figure"
    with pytest.raises(ValueError, match="fine_tuning is not among prefix, "):
        experiment.cells(replace(choice, methods=("fine_tuning",)))
    if name in ("starts", "sites"):  # whose lines do not tell its start
        with pytest.raises(ValueError, match="prefix_examples is not among prefix, "):
            experiment.cells(replace(choice, methods=("prefix_examples",)))


def test_few_examples_are_trained_on_for_the_papers_steps():
    cells = grids.low_data(Choice("tiny", ("e2e",), (0, 1)))
    assert len(cells) == 4 * 5 * 2 * 2
    steps = {(cell.examples, cell.method): cell.steps for cell in cells}
    assert [steps[size, "prefix"] for size in (50, 100, 200, 500)] == [200, 200, 200, 400]
    assert [steps[size, "fine_tuning"] for size in (50, 100, 200, 500)] == [100, 100, 200, 400]
    fewer = grids.low_data(Choice("tiny", ("e2e",), (0,), examples=(50,), batch_size=5))
    assert {(cell.examples, cell.batch_size) for cell in fewer} == {(50, 5)}


def test_untuned_cells_have_the_rate_of_the_command_line():
    rates = {cell.method: cell.learning_rate for cell in grids.untuned(Choice("tiny", ("e2e",), (0,)))}
    given = {"model": "tiny", "output_dir": "out", "train_file": "pairs.jsonl"}
    assert rates == {
        "prefix_scaled": TrainArguments(**given).learning_rate,
        "prefix": TrainArguments(**given, scale_parameter=False).learning_rate,
        "peft_prefix": 1e-2,
    }


def test_the_learning_rate_is_the_one_with_the_lowest_validation_loss(tmp_path):
    store = Store(tmp_path)
    tuned = replace(CELL, splits=("validation",))
    for rate, loss in ((0.1, 3.0), (0.4, 1.0), (1.6, 2.0)):
        found = result_of(replace(tuned, learning_rate=rate), experiment="tune", learning_rate=rate)
        store.add(replace(found, scores={"validation": {"loss": loss}}))
    assert rates.best_rate(CELL, store) == 0.4
    assert rates.best_rate(replace(CELL, learning_rate=0.7), store) == 0.7
    assert rates.best_rate(replace(CELL, method="lora"), store) == METHODS["lora"].learning_rate
    assert rates.best_rate(replace(CELL, base="other"), store) == METHODS["prefix"].learning_rate


def test_the_rate_was_found_for_the_same_start_and_at_the_nearest_size(tmp_path):
    store, methods = Store(tmp_path), ("prefix_scaled", "prefix_examples", "lora")
    choice = Choice("tiny", ("e2e",), (0,), methods)
    for length, times in ((10, 1.0), (100, 4.0)):
        for cell in grids.tuning(replace(choice, num_virtual_tokens=length, rates=(times, 2 * times))):
            best = times * METHODS[cell.method].learning_rate * (1 + (grids.label(cell) == "prefix_examples"))
            loss = 1.0 if cell.learning_rate == best else 2.0
            found = result_of(cell, experiment="tune", learning_rate=cell.learning_rate)
            store.add(replace(found, scores={"validation": {"loss": loss}}))
    for length, times in ((10, 1.0), (30, 1.0), (40, 4.0), (100, 4.0)):
        scaled, examples, lora = grids.table(replace(choice, num_virtual_tokens=length))
        assert examples == scaled.with_knobs(init_examples=True)
        found = [rates.best_rate(cell, store) for cell in (scaled, examples, lora)]
        assert found == pytest.approx([times * 0.2, times * 0.4, times * 1e-3]), length
    flat = CELL.with_knobs(init_examples=True)
    assert rates.best_rate(flat, store) == METHODS["prefix"].learning_rate, "not that of a prefix in units"


def test_two_sizes_are_two_tables(tmp_path):
    store, choice = Store(tmp_path), Choice("tiny", ("e2e",), (0,), ("prefix_examples", "lora"))
    for length, bleu in ((10, 11.0), (100, 22.0)):
        for cell in grids.table(replace(choice, num_virtual_tokens=length)):
            store.add(result_of(cell, bleu))
    write_page(store, tmp_path / "page.md")
    usual, larger = (tmp_path / "page.md").read_text("utf-8").split("## Table, tiny")[1:]
    assert "22.00" not in usual and "11.00" not in larger and larger.startswith(", 100 tokens\n")
    assert "--num-virtual-tokens" not in usual and "--num-virtual-tokens 100 " in larger
    assert "| prefix_examples |" in larger and "--methods prefix_examples lora" in larger
    assert "table-tiny-100-tokens.png" in larger


def test_a_rate_that_is_a_product_is_shown_in_few_digits():
    cells = grids.tuning(Choice("tiny", ("e2e",), (0,), ("prefix",), rates=(0.2, 300.0)))
    table = shown(EXPERIMENTS["tune"], [result_of(cell, experiment="tune") for cell in cells])
    assert table.splitlines()[2].replace(" ", "") == "|bleubylearning_rate|0.02|30|"


def test_what_ran_at_another_scale_is_a_table_of_its_own(tmp_path):
    store, choice = Store(tmp_path), Choice("tiny", ("e2e",), (0,), ("prefix", "lora"), steps=100)
    scales = [{}, {"steps": 400}, {"batch_size": 5, "num_beams": 1}, {"max_records": None, "num_beams": 0}]
    for bleu, changed in enumerate(scales):
        for cell in grids.table(replace(choice, **changed)):
            store.add(result_of(cell, 11.0 * bleu))
    for method, examples in (("prefix", 50), ("fine_tuning", 50), ("prefix", 500)):
        for cell in grids.low_data(replace(choice, methods=(method,), examples=(examples,), subsets=(0,))):
            store.add(result_of(cell, experiment="low-data"))
    write_page(store, tmp_path / "page.md")
    parts = (tmp_path / "page.md").read_text("utf-8").split("\n## ")[1:]
    names = ["tiny", "tiny, 400 steps", "tiny, 5 pairs a step, 1 beams", "tiny, all records, 0 beams"]
    assert [part.splitlines()[0] for part in parts] == [*(f"Table, {name}" for name in names), "Low-data, tiny"]
    assert [f"{11.0 * number:.2f} " in part for number, part in enumerate(parts[:4])] == [True] * 4
    assert "--steps 400 " in parts[1] and "--steps" not in parts[4]


def test_runs_of_more_and_more_steps_are_one_picture(tmp_path):
    cells = grids.steps(Choice("tiny", ("webnlg",), (0,), steps=160))
    assert {(cell.method, cell.steps) for cell in cells} == {
        (method, steps) for method in ("prefix_scaled", "lora", "fine_tuning") for steps in (10, 40, 160)
    }
    assert [cell.steps for cell in grids.steps(Choice("tiny", ("e2e",), (0,), ("lora",), steps=5))] == [1, 5]
    store = Store(tmp_path)
    for cell in cells:
        store.add(result_of(cell, float(cell.steps), experiment="steps"))
    write_page(store, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page.count("## Steps, tiny") == 1 and "| lora          | 10.00 | 40.00 | 160.00 |" in page
    assert "python experiments steps --base tiny --steps 160 " in page


def test_cells_of_the_paper_have_its_hyperparameters():
    choice = Choice("gpt2-medium", ("webnlg",), (0,), methods=("prefix_mlp", "fine_tuning", "adapter", "lora"))
    mlp, tuned, adapter, lora = map(as_in_the_paper, grids.table(choice))
    assert (mlp.learning_rate, mlp.epochs, mlp.batch_size, mlp.value("num_virtual_tokens")) == (5e-5, 5, 5, 5)
    assert (mlp.objective, mlp.num_beams, mlp.separator) == ("sentence_sum", 5, None)
    assert (tuned.learning_rate, tuned.epochs, tuned.batch_size) == (1e-5, 10, 6)
    assert (adapter.learning_rate, adapter.epochs, adapter.batch_size) == (5e-5, 10, 5)
    assert (lora.learning_rate, lora.epochs, lora.batch_size) == (None, 5, 5)
    with pytest.raises(ValueError, match="no recipe for webnlg with tiny"):
        as_in_the_paper(replace(CELL, task="webnlg"))
    few = as_in_the_paper(replace(CELL, base="gpt2-medium", examples=500, method="prefix_mlp"))
    assert (few.steps, few.epochs, few.value("init_text")) == (400, None, "table-to-text:")


def test_from_command_to_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(data.PROTOCOLS, "e2e", "plain")  # the official scripts start a Java machine each time
    base, folder = tmp_path / "base", write_task(tmp_path / "data")
    runs.base_model().save_pretrained(base)
    runs.tokenizer().save_pretrained(base)
    command = [
        "table", "--base", str(base), "--data-dir", str(folder), "--tasks", "e2e", "--methods", "none", "prefix",
        "adapter", "prefix_scaled", "prefix_examples", "--seeds", "0", "--steps", "4", "--max-records", "3",
        "--output", str(tmp_path / "out"),
        "--page", str(tmp_path / "results.md"), "--mixed-precision", "no",
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    results = {grids.label(result.cell): result for result in Store(tmp_path / "out").of("table")}
    assert results.keys() == {"none", "prefix", "adapter", "prefix_scaled", "prefix_examples"}
    assert results["prefix"].parameters == 10 * 2 * 2 * 44  # tokens, keys and values, layers, width
    assert results["adapter"].parameters == pytest.approx(results["prefix"].parameters, rel=0.06)
    assert results["none"].parameters == 0
    assert results["prefix"].scores["test"]["loss"] != results["none"].scores["test"]["loss"]
    examples, scaled = (results[name].scores["test"]["loss"] for name in ("prefix_examples", "prefix_scaled"))
    assert examples != scaled, "another start"
    assert "How do the methods compare" in said
    assert (tmp_path / "out" / "table.png").is_file()
    page = (tmp_path / "results.md").read_text("utf-8")
    assert f"{results['prefix'].scores['test']['loss']:.2f}" in page
    before = (tmp_path / "out" / "cells.jsonl").read_text("utf-8")
    assert main(command) == 0
    assert (tmp_path / "out" / "cells.jsonl").read_text("utf-8") == before, "a finished cell is not run again"


def test_the_page_says_how_many_draws_its_command_takes(tmp_path):
    store = Store(tmp_path)
    for subset in (0, 1):
        store.add(result_of(replace(CELL, examples=50, subset=subset), experiment="low-data"))
    store.add(result_of(CELL))
    write_page(store, tmp_path / "page.md")
    commands = re.findall(r"`python experiments (\S+) --base \S+ ([^`]*)`", (tmp_path / "page.md").read_text("utf-8"))
    said = ("--draws 2", "--draws", "--examples 50 ", "--examples")
    assert {name: [option in options for option in said] for name, options in commands} == {
        "low-data": [True, True, True, True],
        "table": [False, False, False, False],
    }


def test_the_page_prints_the_command_that_makes_its_figures(tmp_path):
    small = {"batch_size": 5, "num_beams": 1, "steps": 30, "max_records": 20}
    choice = Choice("tiny", ("dart",), (0,), ("prefix", "lora"), **small, rates=(0.5, 2.0))
    store = Store(tmp_path)
    for cell in grids.tuning(choice):
        store.add(result_of(cell, experiment="tune", made_on={"mixed_precision": "no"}))
    for number, cell in enumerate(grids.table(replace(choice, tasks=("webnlg", "e2e", "dart")))):
        store.add(result_of(cell, made_on={"mixed_precision": "bf16" if number else "no"}))
    for cell in grids.untuned(replace(choice, methods=None, num_beams=0)):
        store.add(result_of(cell, experiment="untuned"))
    for cell in grids.starts(replace(choice, methods=("prefix_mlp",))):
        store.add(result_of(cell, experiment="starts"))
    write_page(store, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert "starts --base tiny --tasks dart --methods prefix_mlp --batch-size 5" in page
    assert "untuned --base tiny --tasks dart --steps 30 --batch-size 5 --beams 0 --max-records 20" in page
    assert (
        "`python experiments tune --base tiny --tasks dart --methods prefix lora --rates 0.5 2 --steps 30 "
        "--batch-size 5 --max-records 20 --seeds 0 --mixed-precision no`" in page
    )
    assert (
        "`python experiments table --base tiny --methods prefix lora --steps 30 --batch-size 5 --beams 1 "
        "--max-records 20 --seeds 0`" in page
    )


def drawn(experiment: str, results: list[Result], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The picture, before it becomes a file."""
    figure, pictures = pytest.importorskip("matplotlib.figure"), []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **options: pictures.append(self))
    draw(EXPERIMENTS[experiment], results, Path("unwritten.png"))
    return pictures[0]


def test_many_lines_are_named_beside_the_panels_and_look_alike_in_all(monkeypatch):
    methods = list(METHODS)[1:14]
    cells = [replace(CELL, method=method, task=task) for task in ("e2e", "dart") for method in methods]
    cells = [cell for cell in cells if (cell.task, cell.method) != ("e2e", methods[3])]
    results = [result_of(replace(cell, learning_rate=rate)) for cell in cells for rate in (0.1, 0.2)]
    picture = drawn("tune", results, monkeypatch)
    assert sorted(text.get_text() for text in picture.legends[0].get_texts()) == sorted(methods)
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in axes.get_lines()} for axes in picture.axes
    ]
    assert len(set(looks[1].values())) == len(methods)
    assert looks[0].items() < looks[1].items()


def test_a_loss_is_drawn_where_the_figures_are_and_not_from_zero(monkeypatch):
    cell = replace(CELL, num_beams=0)
    results = [
        replace(result_of(replace(cell, method=method)), scores={"test": {"loss": loss}})
        for method, loss in (("prefix", 3.0), ("lora", 3.1))
    ]
    (axes,) = drawn("table", results, monkeypatch).axes
    assert axes.get_xlim()[0] > 2.9
    (axes,) = drawn("table", [result_of(CELL, 30.0)], monkeypatch).axes
    assert axes.get_xlim()[0] == 0


def test_what_cannot_be_run_is_said(tmp_path, capsys):
    placed = ["--base", "tiny", "--data-dir", str(tmp_path)]
    for command, said in (
        (["table"], "--base MODEL --data-dir DIR"),
        ([], "name an experiment"),
        (["tabel"], "unknown experiment 'tabel'; choose from tune, table"),
        (["table", *placed, "--methods", "lore"], "unknown method 'lore'; choose from none, fine_tuning"),
        (["table", *placed, "--tasks", "xsun"], "unknown task 'xsun'; choose from webnlg, e2e"),
        (["table", "places", *placed, "--methods", "lora"], "lora is not among prefix, infix, embedding"),
        (["table", "untuned", *placed, "--methods", "lora"], "lora is not among prefix_scaled, prefix, peft_prefix"),
        (["table", *placed, "--recipes"], "tiny"),
        (["steps", *placed, "--recipes"], "steps compares numbers of steps, which --recipes fixes"),
        (["table", *placed, "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["table", *placed, "--beams", "-1"], "num_beams must be at least 0, got -1"),
        (["low-data", *placed, "--examples", "30"], "invalid choice: 30 (choose from 50, 100, 200, 500)"),
    ):
        with pytest.raises(SystemExit):
            main(command)
        assert said in capsys.readouterr().err
        assert not list(tmp_path.iterdir()), "nothing is begun"
