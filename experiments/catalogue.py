"""Every experiment by its name: the question, what the paper found, and its cells."""

from __future__ import annotations

from . import grids
from .cell import Cell
from .experiment import Experiment


def _start(cell: Cell) -> str:
    knobs = {name: value for name, value in cell.knobs if name != "num_virtual_tokens"}
    return _of(cell, next(name for name, start in grids.STARTS.items() if start == knobs))


def _kinds(cell: Cell) -> str:
    return _of(cell, " + ".join(cell.value("sites")))


def _of(cell: Cell, line: str) -> str:
    return line if cell.method == "prefix" else f"{line}, {cell.method}"


def _variant(cell: Cell) -> str:
    changed = [_said(name, value) for name, value in cell.knobs if name != "num_virtual_tokens"]
    return ", ".join([cell.method.replace("_", " "), *changed])


def _said(knob: str, value: object) -> str:
    words = knob.replace("_", " ")
    return words if value is True else f"{words} {value}"


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "tune",
            "Which learning rate does each method need? By validation loss; the others use what this finds.",
            "grid of 1e-5, 5e-5, 8e-5 (appendix)",
            grids.tuning,
            grids.label,
            x="learning_rate",
            tasks=("webnlg",),
        ),
        Experiment(
            "table",
            "How do the methods compare with all data, at as many steps?",
            "GPT-2 medium: the prefix is within 1 BLEU of fine-tuning or above it on all three tasks, 4.1 above the "
            "adapter of its size, and far above fine-tuning on WebNLG's unseen topics (Table 2)",
            grids.table,
            grids.label,
        ),
        Experiment(
            "untuned",
            "What do the defaults give, ours and PEFT's, where nobody tunes anything?",
            "not asked; the learning rates are those of `prefix-peft train` and of PEFT's example of prefix tuning",
            grids.untuned,
            grids.label,
        ),
        Experiment(
            "low-data",
            "What do few examples teach?",
            "the prefix is 2.9 BLEU above fine-tuning on average, most where data are fewest (Figure 3)",
            grids.low_data,
            grids.label,
            x="examples",
            one_course=False,
            tasks=("e2e",),
        ),
        Experiment(
            "samples",
            "How do texts read at different levels of data?",
            "the prefix's are faithful to the table from 50 examples on, fine-tuning's leave things out (Figure 3)",
            grids.texts,
            grids.label,
            x="examples",
            one_course=False,
            tasks=("e2e",),
            texts=True,
        ),
        Experiment(
            "curve",
            "How does the number of examples matter?",
            "the prefix is at fine-tuning's level or above it from 20 % of E2E's data on (appendix)",
            grids.curve,
            grids.label,
            x="examples",
            tasks=("e2e",),
        ),
        Experiment(
            "steps",
            "How does the number of optimizer steps matter?",
            "not reported; 5 epochs of the prefix are 18,000 steps of WebNLG (appendix)",
            grids.steps,
            grids.label,
            x="steps",
            one_course=False,
            tasks=("webnlg",),
        ),
        Experiment(
            "unseen",
            "Who can write about topics that were not trained on?",
            "45.3 BLEU on unseen topics where fine-tuning has 26.7, GPT-2 medium (Table 2)",
            grids.table,
            grids.label,
            tasks=("webnlg",),
        ),
        Experiment(
            "starts",
            "From what should a prefix start where data are few?",
            "random is low and varies much, real words are better, the task's words best (Figure 5)",
            grids.starts,
            _start,
            x="examples",
            one_course=False,
            tasks=("e2e",),
        ),
        Experiment(
            "length",
            "How long should a prefix be?",
            "it rises to a point (10 for table-to-text, 200 for summaries) and falls slightly behind it (Figure 4)",
            grids.lengths,
            grids.label,
            x="num_virtual_tokens",
            one_size=False,
            tasks=("webnlg",),
        ),
        Experiment(
            "places",
            "Where should the trained vectors stand?",
            "the prefix is above the infix [x; INFIX; y], and both far above the embedding alone (Table 4)",
            grids.places,
            grids.label,
            x="num_virtual_tokens",
            one_size=False,
            tasks=("e2e",),
        ),
        Experiment(
            "mlp",
            "Does the MLP help?",
            "training P itself is less stable and slightly worse (section 4.3)",
            grids.projections,
            grids.label,
            x="learning_rate",
            tasks=("webnlg",),
        ),
        Experiment(
            "sites",
            "Which kinds of an encoder-decoder's attention need a prefix?",
            "not reported; [PREFIX; x; PREFIX'; y] has all three",
            grids.sites,
            _kinds,
            tasks=("scitldr",),
        ),
        Experiment(
            "variants",
            "Which defaults learn best? By validation data.",
            "the MLP, in place of which this library trains P itself",
            grids.variants,
            _variant,
            one_size=False,
            tasks=("webnlg",),
        ),
    )
}
