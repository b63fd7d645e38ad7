"""The benchmarks: their arithmetic against loops, and each command at its smallest. No test asks how long it took."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import decode, load, memory, plan, results, rounds, sides, train
from benchmarks.command import MEASURES, main, parse
from benchmarks.goals import GOALS, over_baseline, reached
from benchmarks.report import cell, page
from benchmarks.rounds import Case
from benchmarks.settings import QUICK, Settings, Step

TINY = Settings(**QUICK)
WITH_LORA = {sides.PEFT, sides.LORA, sides.OURS}
OF_ALL = {*WITH_LORA, sides.BARE, f"{sides.OURS}, joined", f"{sides.OURS}, merged"}
SIDES = {
    "decode": OF_ALL,
    "train": {*OF_ALL, f"{sides.PEFT}, MLP", f"{sides.OURS}, MLP"},
    "memory": OF_ALL,
    "load": WITH_LORA,
    "switch": OF_ALL,
    "plan": {sides.MEASURED, plan.PLANNED},
}
HOW = {name: module.HOW for name, module in MEASURES.items()}


def measured(trials, number=4, **options):
    case = Case("decode", "batch 1", "ms", "a", **options)
    with tqdm(disable=True) as progress:
        return rounds.measure(case, trials, number, progress)


@pytest.mark.parametrize("number", [1, 2, 5, 6])
def test_the_ratio_is_the_median_of_the_ratios_within_rounds(number):
    generator = torch.Generator().manual_seed(number)
    samples, baseline = (torch.rand(2, number, generator=generator) + 0.1).tolist()
    for how in ("ratio", "difference"):
        found = []
        for i in range(number):
            found.append(samples[i] / baseline[i] if how == "ratio" else samples[i] - baseline[i])
        found.sort()
        middle = (found[(number - 1) // 2] + found[number // 2]) / 2
        assert rounds.compared(samples, baseline, how) == pytest.approx(middle)
    assert rounds.compared(samples, baseline, "nothing") is None


def test_the_spread_of_samples():
    assert rounds.spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {
        "median": 3.0,
        "minimum": 1.0,
        "lower_quartile": 2.0,
        "upper_quartile": 4.0,
    }


def test_each_side_runs_once_a_round_and_each_begins_in_turn():
    seen = []
    case = measured({side: lambda side=side: float(seen.append(side) or len(seen)) for side in "abc"}, 3)
    turns = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert [sorted(turn) for turn in turns] == [["a", "b", "c"]] * 4, "one to warm up, and three"
    assert {turn[0] for turn in turns[1:]} == {"a", "b", "c"}
    assert sorted(sample for found in case.samples.values() for sample in found) == [float(i) for i in range(4, 13)], (
        "the first round does not count"
    )


def test_a_side_that_fails_is_told_of_and_left_out():
    answers = iter([1.0, 1.0, 1.0])

    def fail():
        try:
            return next(answers)
        except StopIteration as error:
            raise ZeroDivisionError("no way") from error

    case = measured({"a": lambda: 2.0, "b": fail, "c": lambda: 3.0})
    assert case.failures == {"b": "ZeroDivisionError: no way"}
    assert case.samples == {"a": [2.0] * 4, "c": [3.0] * 4}
    assert [cell(case, side) for side in "abcd"] == ["2", "fails", "3 (1.50x)", "-"]


def test_goals():
    name = "batch 8, prefix 20"
    case = Case("decode", name, "ms", sides.BARE, {sides.BARE: [10.0, 20.0], sides.OURS: [10.8, 22.0]})
    assert over_baseline(case, sides.OURS) == pytest.approx(1.09)
    assert reached(case) is True
    case.samples[sides.OURS] = [11.2, 22.4]
    assert reached(case) is False
    assert reached(Case("decode", name, "ms", sides.BARE)) is None
    assert reached(Case("decode", "batch 8, prefix 21", "ms", sides.BARE, case.samples)) is None


def test_the_default_settings_have_every_goal():
    given = Settings()
    names = {("decode", f"batch {batch}, prefix {prefix}") for batch in given.batches for prefix in given.prefixes}
    names |= {("train", train.named(step)) for step in given.steps}
    names.add(("memory", f"batch {max(given.batches)}, prefix {max(given.prefixes)}, live tensors"))
    names.add(("switch", f"{given.rows} rows with {given.rows} prefixes of {given.row_prefix}"))
    assert GOALS.keys() <= names


def test_results_are_read_as_they_were_written(tmp_path):
    case = Case("memory", "all", "MiB", "a", {"a": [1.0], "b": [3.0]}, {"c": "no"}, "difference")
    record = results.Record("a command", {"cores": 2}, {"layers": 1}, [case])
    results.save({"memory": record}, tmp_path / "deep" / "results.json")
    assert results.load(tmp_path / "deep" / "results.json") == {"memory": record}
    assert results.load(tmp_path / "none.json") == {}


def test_steps_count_from_the_first_token_on(monkeypatch):
    ticks = iter([0.0, 1.0, 4.0, 9.0])  # once after the prompt, and after each of three tokens: 1, 3 and 5 seconds
    monkeypatch.setattr(decode, "now", lambda device: next(ticks))
    assert decode.step_time(sides.build(TINY), TINY, batch=2) == 3000.0


def test_sides_share_the_weights_and_leave_the_model_alone():
    model = sides.build(TINY)
    before, names = {id(p) for p in model.parameters()}, [name for name, _ in model.named_modules()]
    for side, config in sides.configs(3).items():
        wrapped = sides.attach(model, config)
        assert before <= {id(parameter) for parameter in wrapped.parameters()}, side
        assert not any(module.training for module in wrapped.modules()), side
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("side", train.learners(3))
def test_gradients_pass_every_layer_and_reach_what_trains(side):
    model = train.learner(sides.build(TINY), train.learners(3)[side])
    passed, first = [], next(module for name, module in model.named_modules() if name.endswith("layers.0.mlp"))
    first.register_full_backward_hook(lambda module, given, out: passed.append(out[0].abs().max().item()))
    ids = sides.tokens(TINY, 2, 8)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert passed and passed[0] > 0
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert bool(learnt) == (side != sides.BARE)
    train.step_time(model, ids)
    assert all(parameter.grad is None for parameter in model.parameters()), "the next round starts without"


def test_bytes_of_tensors_that_live():
    outside = torch.ones(3, 50)
    with memory.LiveBytes() as counter:
        turned = outside.t()
        assert counter.now == 0
        del turned
        first = torch.zeros(1000)
        view = first[5:]
        del first
        assert counter.now == 4000
        other = view.double()
        assert counter.now == 4000 + 995 * 8
        del view
        kept = [other.view(5, -1)]
        del other
        assert counter.now == 995 * 8
        kept.clear()
        torch.zeros(10)
    assert (counter.now, counter.peak) == (0, 4000 + 995 * 8)


def test_the_memory_of_a_prefix_counts():
    settings = Settings(**{**QUICK, "prompt": 1, "tokens": 1, "layers": 8})
    short, long = (memory.live(settings, f"{sides.OURS}, joined", 1, prefix) for prefix in (100, 1100))
    bare = memory.live(settings, sides.BARE, 1, 100)
    site = 2 * settings.key_value_heads * (settings.width // settings.heads) * 4 / memory.MIB  # keys, values; float32
    assert short - bare >= 100 * site * settings.layers
    assert 1000 * site * settings.layers <= long - short <= 1000 * site * (settings.layers + 4), (
        "and one layer's copies"
    )


def test_forward_passes_are_counted():
    model = sides.build(TINY)
    assert load.passes(lambda: model, lambda bare: [bare(sides.tokens(TINY, 1, 4)) for _ in range(3)]) == 3.0
    assert load.passes(lambda: model, lambda bare: bare.lm_head(bare.model.norm.weight)) == 0.0
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_flags_stand_before_quick_and_sizes():
    _, settings = parse(["train", "--quick", "--layers", "3", "--steps", "2x5+7", "4x6+8"])
    assert settings == Settings(**{**QUICK, "layers": 3, "steps": (Step(2, 5, 7), Step(4, 6, 8))})
    _, settings = parse(["decode", "--size", "1b", "--heads", "16"])
    assert (settings.width, settings.heads, settings.rounds) == (2048, 16, Settings.rounds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sing"], "invalid choice: 'sing'"),
        (["train", "--steps", "8x128"], "expected BATCHxLENGTH\\+PREFIX such as 8x128\\+20, got '8x128'"),
        (["decode", "--rounds", "0"], "expected a whole number of at least 1, got '0'"),
        (["decode", "--device", "abacus"], "'abacus' is not here; choose cpu, or cuda"),
        (["decode", "--tokens", "2", "--heads", "3"], "width 512 is no multiple of heads 3"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_smallest_form_of_each_command(measure, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "WAYS", {"float32": {}})  # of seven
    pages = tmp_path / "docs" / "performance.md"
    quick = ["--quick", "--quiet", "--rounds", "1", "--tokens", "2", "--batches", "2"]
    assert main([measure, *quick, "--output", str(tmp_path), "--page", str(pages)]) == 0
    written = json.loads((tmp_path / "results.json").read_text())
    assert written.keys() == {measure}
    record = written[measure]
    assert record["command"].startswith(f"python benchmarks {measure} --quick")
    assert {"processor", "cores", "threads", "torch", "transformers", "peft", "prefix-peft"} <= record["machine"].keys()
    assert {side for case in record["cases"] for side in case["sides"]} == SIDES[measure]
    for case in record["cases"]:
        assert case["failures"] == {}
        assert case["baseline"] in case["sides"]
        for side in case["sides"].values():
            assert 0 <= side["minimum"] <= side["lower_quartile"] <= side["median"] <= side["upper_quartile"]
            assert side["median"] > 0 or case["unit"] == "forward passes"
    text = pages.read_text()
    assert HOW[measure] in text and capsys.readouterr().out.splitlines()[1] in text
    assert pages.with_suffix(".png").exists() == (measure in ("decode", "train", "switch"))


def test_what_another_run_measured_stays_on_the_page(tmp_path):
    quick = ["--quick", "--quiet", "--rounds", "1", "--layers", "1", "--output", str(tmp_path)]
    main(["load", *quick])
    main(["train", *quick])
    records = results.load(tmp_path / "results.json")
    assert records.keys() == {"load", "train"}
    text = (tmp_path / "performance.md").read_text()
    assert text.index("## Train") < text.index("## Load")
    assert text == page({name: records[name] for name in ("train", "load")}, HOW, tmp_path / "performance.png")
