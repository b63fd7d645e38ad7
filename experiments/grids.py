"""The paper's experiments, and those by which this library's defaults are chosen: their cells."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import chain, combinations, product

from .cell import Cell
from .experiment import Choice
from .methods import METHODS

FROM_EXAMPLES = "prefix_examples"  # a prefix in units of its own that starts from training pairs
LARGE = "adapter_3pct"  # the paper's larger adapter, of 3 % of the base's numbers
TABLE = (
    "none",
    "prefix",
    "prefix_scaled",
    FROM_EXAMPLES,
    "prefix_mlp",
    "fine_tuning",
    "ft_top2",
    LARGE,
    "adapter",
    "lora",
    "peft_prefix",
    "peft_prompt",
)
# The rates of `prefix-peft train`, of the same with --no-scale-parameter, and of PEFT's example
UNTUNED = {"prefix_scaled": 2e-1, "prefix": 5e-2, "peft_prefix": 1e-2}
# Optimizer steps of prefix-tuning and of fine-tuning at each number of examples: the paper, appendix
LOW_DATA_STEPS = {50: (200, 100), 100: (200, 100), 200: (200, 200), 500: (400, 400)}
CURVE = (400, 2000, 8000, 32000)  # pairs of E2E: 1 %, 5 %, 19 % and 76 %
COURSES = (16, 4, 1)  # of as many of the steps a part, each trained to its own end
LENGTHS = (1, 2, 5, 10, 20, 40, 80)
PREFIXES = ("prefix", "prefix_scaled", "prefix_mlp", "prefix_shared")
OURS = (*PREFIXES, FROM_EXAMPLES)
MLP_OR_NOT = ("prefix", "prefix_mlp")
PLACES = {"prefix": (1, 10, 20), "infix": (1, 10, 20), "embedding": (1, 10, 20)}
STARTS: dict[str, dict[str, object]] = {
    "random numbers": {"random_numbers": True},
    "random tokens": {},
    "irrelevant words": {"init_text": "elephant divide keep active"},
    "task words": {"init_text": "table to text :"},
    "training pairs": {"init_examples": True},
}
KINDS = ("encoder", "decoder", "cross")
VARIANTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("prefix", {}),
    ("prefix", STARTS["task words"]),
    ("prefix", STARTS["random numbers"]),
    ("prefix", {"num_frozen_tokens": 1}),
    ("prefix", {"gate": True}),
    ("prefix", {"prefix_dropout": 0.1}),
    ("prefix", {"key_scale": 0.1}),
    ("prefix", {"key_scale": 4.0}),
    ("prefix", {"value_scale": 0.1}),
    ("prefix", {"value_scale": 4.0}),
    ("prefix", {"relative_scale": True}),
    ("prefix_scaled", {}),
    ("prefix", {"layers": "lower"}),
    ("prefix", {"layers": "upper"}),
    ("prefix_mlp", {"encoder_hidden_size": 512}),
    ("prefix_mlp", {"encoder_hidden_size": 64}),
    ("prefix_shared", {"latent_size": 64}),
    ("decoupled", {}),
    ("decoupled", {"memory_rank": Choice.num_virtual_tokens}),
    # keys and values of one vector: half the numbers
    ("peft_adaption_prompt", {"num_virtual_tokens": 2 * Choice.num_virtual_tokens}),
)


def cell_of(choice: Choice, task: str, method: str, seed: int, **fields: object) -> Cell:
    """A cell whose method trains as many numbers as a prefix of so many virtual tokens, or 3 % of the base's."""
    if method == LARGE:
        return choice.cell(task, "adapter", seed, share=0.03, **fields)
    if method == FROM_EXAMPLES:
        return cell_of(choice, task, "prefix_scaled", seed, **fields).with_knobs(init_examples=True)
    length = choice.num_virtual_tokens
    cell = choice.cell(task, method, seed, **fields)
    if method in ("adapter", "lora"):
        return replace(cell, as_prefix=length)
    return cell if method in ("none", "fine_tuning", "ft_top2") else cell.with_knobs(num_virtual_tokens=length)


def _among(choice: Choice, known: Collection[str], usual: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The methods that were asked for; by default the ``usual`` ones, or all.

    Raises:
        ValueError: one that the experiment does not compare.
    """
    for method in choice.methods or ():
        if method not in known:
            raise ValueError(f"{method} is not among {', '.join(known)}; name some of these, or none for the usual.")
    return choice.methods or usual or tuple(known)


def _prefixes(choice: Choice, known: Collection[str] = PREFIXES) -> tuple[str, ...]:
    return _among(choice, known, ("prefix",))


def label(cell: Cell) -> str:
    """The method, by its size where there are two, and by its start."""
    from_examples = cell.method == "prefix_scaled" and cell.value("init_examples")
    return LARGE if cell.share else FROM_EXAMPLES if from_examples else cell.method


def size(cell: Cell) -> int:
    """How many virtual tokens have as many numbers; the usual where a method has but one size."""
    return cell.as_prefix or cell.value("num_virtual_tokens") or Choice.num_virtual_tokens


def table(choice: Choice) -> list[Cell]:
    """All methods with all data; the base itself once."""
    methods = choice.methods or TABLE
    return [
        cell_of(choice, task, method, seed)
        for seed, task, method in product(choice.seeds, choice.tasks, methods)
        if method != "none" or seed == choice.seeds[0]
    ]


def untuned(choice: Choice) -> list[Cell]:
    """Ours and PEFT's prefix as in the table, at the rates that their libraries show."""
    cells = table(replace(choice, methods=_among(choice, UNTUNED)))
    return [replace(cell, learning_rate=UNTUNED[cell.method]) for cell in cells]


def low_data(choice: Choice) -> list[Cell]:
    """Few examples, drawn several times."""
    methods = choice.methods or ("prefix", "fine_tuning")
    return [
        low_data_cell(choice, task, method, seed, examples, subset)
        for subset, seed, task, examples, method in product(
            choice.subsets, choice.seeds, choice.tasks, choice.examples, methods
        )
    ]


def texts(choice: Choice) -> list[Cell]:
    """The first draw of each size."""
    return low_data(replace(choice, subsets=(0,), seeds=choice.seeds[:1]))


def curve(choice: Choice) -> list[Cell]:
    """From few examples to many."""
    return [
        cell_of(choice, task, method, seed, examples=examples)
        for seed, task, examples, method in product(
            choice.seeds, choice.tasks, CURVE, choice.methods or ("prefix", "fine_tuning")
        )
    ]


def steps(choice: Choice) -> list[Cell]:
    """From few steps to as many as are asked for."""
    methods = choice.methods or ("prefix_scaled", "lora", "fine_tuning")
    courses = dict.fromkeys(max(choice.steps // part, 1) for part in COURSES)
    return [
        cell_of(choice, task, method, seed, steps=course)
        for seed, task, course, method in product(choice.seeds, choice.tasks, courses, methods)
    ]


def low_data_cell(choice: Choice, task: str, method: str, seed: int, examples: int, subset: int) -> Cell:
    """Steps by method and number of examples, as in the paper."""
    steps = LOW_DATA_STEPS[examples][method == "fine_tuning"]
    return cell_of(choice, task, method, seed, examples=examples, subset=subset, steps=steps)


def starts(choice: Choice) -> list[Cell]:
    """What the prefix starts from, where data are few."""
    return [
        low_data_cell(choice, task, method, seed, examples, subset).with_knobs(**start)
        for subset, seed, task, examples, method, start in product(
            choice.subsets, choice.seeds, choice.tasks, choice.examples, _prefixes(choice), STARTS.values()
        )
    ]


def lengths(choice: Choice) -> list[Cell]:
    """Prefixes from one virtual token to many."""
    return [
        cell_of(replace(choice, num_virtual_tokens=length), task, method, seed)
        for seed, task, method, length in product(choice.seeds, choice.tasks, _prefixes(choice, OURS), LENGTHS)
    ]


def places(choice: Choice) -> list[Cell]:
    """Before the text at every layer, between source and target, and before the text at the embedding alone."""
    return [
        choice.cell(task, method, seed).with_knobs(num_virtual_tokens=length)
        for seed, task, method in product(choice.seeds, choice.tasks, _among(choice, PLACES))
        for length in PLACES[method]
    ]


def projections(choice: Choice) -> list[Cell]:
    """Flat and through the MLP, at several learning rates."""
    return [
        replace(cell_of(choice, task, method, seed), learning_rate=times * METHODS[method].learning_rate)
        for seed, task, method, times in product(choice.seeds, choice.tasks, _among(choice, MLP_OR_NOT), choice.rates)
    ]


def sites(choice: Choice) -> list[Cell]:
    """Every choice among an encoder-decoder's three kinds of attention."""
    chosen = chain.from_iterable(combinations(KINDS, count) for count in (1, 2, 3))
    return [
        cell_of(choice, task, method, seed).with_knobs(sites=kinds)
        for kinds, seed, task, method in product(chosen, choice.seeds, choice.tasks, _prefixes(choice))
    ]


def tuning(choice: Choice) -> list[Cell]:
    """Learning rates for every method, judged by the loss on validation data."""
    methods = choice.methods or tuple(method for method in TABLE if method != "none")
    cells = [
        cell_of(choice, task, method, seed, splits=("validation",), num_beams=0)
        for task, seed, method in product(choice.tasks, choice.seeds, methods)
    ]
    return [
        replace(cell, learning_rate=times * METHODS[cell.method].learning_rate)
        for times, cell in product(choice.rates, cells)
    ]


def variants(choice: Choice) -> list[Cell]:
    """A prefix, and one thing changed at a time in how it is trained, judged by the loss on validation data."""
    methods = _among(choice, dict.fromkeys(method for method, _ in VARIANTS))
    return [
        cell_of(choice, task, method, seed, splits=("validation",), num_beams=0).with_knobs(**knobs)
        for seed, task, (method, knobs) in product(choice.seeds, choice.tasks, VARIANTS)
        if method in methods
    ]
