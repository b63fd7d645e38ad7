"""The command line."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from . import decode, load, machine, memory, plan, results, switch, train
from .plot import draw
from .report import page, table
from .results import Record
from .settings import QUICK, SIZES, Settings, Step
from .sides import OURS

MEASURES = {"decode": decode, "train": train, "memory": memory, "load": load, "switch": switch, "plan": plan}
DTYPES = ("float32", "bfloat16", "float16")
DESCRIPTION = """Measure what a prefix costs, beside the bare model and beside PEFT's PREFIX_TUNING and LoRA. Nothing is
downloaded: the model is a random Llama."""
NUMBERS = {
    "layers": "of the model",
    "width": "of the model",
    "heads": "query heads of the model",
    "key_value_heads": "key/value heads of the model",
    "intermediate_size": "of the model",
    "vocabulary": "of the model",
    "prompt": "tokens that are read before the first is written",
    "tokens": "steps of decoding that are timed in each round",
    "rounds": "how often each side runs",
    "rows": "for switch: rows, and as many different prefixes",
    "row_prefix": "for switch: their length",
}
LISTS = {"batches": "for decode; the largest for memory", "prefixes": "for decode; the longest for memory"}
EXAMPLES = """examples:
  python benchmarks all --quick                                        see it run, in seconds
  python benchmarks decode --batches 8 --prefixes 20 1024              some cases
  python benchmarks all --page docs/performance.md                     everything, and the page (make benchmarks)
  python benchmarks all --device cuda --dtype bfloat16 --size 1b       on a GPU

measures that an earlier run left in results.json stay there, and on the page, until they are taken again.
Set OMP_NUM_THREADS to choose the number of threads, and let nothing else run."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where our own side fails anywhere."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, settings = parse(arguments)
    names = list(MEASURES) if options.measure == "all" else [options.measure]
    file = options.output / "results.json"
    records = results.load(file)
    if settings.compile:
        torch._dynamo.config.recompile_limit = 100  # all sides run the same lines of transformers
    for name in names:
        with tqdm(total=MEASURES[name].count(settings), unit="round", disable=settings.quiet, desc=name) as progress:
            cases = list(MEASURES[name].cases(settings, progress))
        command = " ".join(["python benchmarks", *arguments])
        records[name] = Record(command, machine.describe(settings.device), asdict(settings), cases)
        results.save(records, file)
        print(f"{name} (medians; in brackets, against the side that has none)", table(cases), sep="\n")
    records = {name: records[name] for name in MEASURES if name in records}
    write_page(records, options.page or options.output / "performance.md")
    return int(any(side.startswith(OURS) for name in names for case in records[name].cases for side in case.failures))


def write_page(records: dict[str, Record], path: Path) -> None:
    """The page, and its plot beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw(records, path.with_suffix(".png"))
    path.write_text(page(records, {name: module.HOW for name, module in MEASURES.items()}, picture), "utf-8")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, Settings]:
    """What was asked for; what was not has the defaults of `Settings`, `QUICK` or one of `SIZES`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = {name: value for name, value in vars(options).items() if name in Settings.__dataclass_fields__}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    try:
        return options, Settings(**{**(QUICK if options.quick else {}), **SIZES.get(options.size, {}), **given})
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("measure", choices=[*MEASURES, "all"], help="what to measure")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("runs/benchmarks"), help="for results.json")
    parser.add_argument(
        "--page", metavar="FILE", type=Path, default=None, help="the page (default: DIR/performance.md)"
    )
    parser.add_argument("--quick", action="store_true", default=False, help="a tiny model, to see that everything runs")
    parser.add_argument("--size", choices=SIZES, default=None, help="a model of the shape of Llama 3.2, for a GPU")
    parser.add_argument("--device", type=_device, help="cpu, cuda, cuda:1 ... (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the model's weights (default: float32)")
    for name, text in NUMBERS.items():
        default = getattr(Settings, name)
        parser.add_argument(_flag(name), metavar="N", type=_count, help=f"{text} (default: {default})")
    for name, text in LISTS.items():
        default = " ".join(map(str, getattr(Settings, name)))
        parser.add_argument(_flag(name), metavar="N", type=_count, nargs="+", help=f"{text} (default: {default})")
    default = " ".join(map(str, Settings.steps))
    parser.add_argument("--steps", metavar="BxT+P", type=Step.parse, nargs="+", help=f"for train (default: {default})")
    parser.add_argument("--compile", action="store_true", help="decode with a static cache, compiled")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}.")
    return int(text)


def _device(text: str) -> str:
    if text != "cpu" and not (text.startswith("cuda") and torch.cuda.is_available()):
        raise argparse.ArgumentTypeError(f"{text!r} is not here; choose cpu, or cuda where torch sees a GPU.")
    return text
