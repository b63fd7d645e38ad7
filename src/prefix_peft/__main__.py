"""The command line: train, evaluate and use a prefix."""

from __future__ import annotations

import json
import os
import sys
import warnings
from argparse import SUPPRESS, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import asdict
from inspect import cleandoc
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from .commands.arguments import (
    DistillArguments,
    EvaluateArguments,
    GenerateArguments,
    ScoreArguments,
    TrainArguments,
)
from .commands.recipe_command import add_recipe
from .commands.recipe_command import main as show_recipes
from .convert.command import ConvertArguments, convert_command
from .planning.arguments import InspectArguments
from .publishing.command import PullArguments, PushArguments, pull_command, push_command
from .ranks.place import leave
from .whole import write_text

USAGE = """usage: prefix-peft COMMAND [options]      (prefix-peft COMMAND --help lists them)

  train      train a prefix for a frozen model
  distill    train a short prefix to do what a long document in view does
  evaluate   loss of a trained prefix, and BLEU and other metrics of what it writes
  score      the same metrics of any texts
  generate   what a model with a prefix writes
  serve      the same over HTTP (OpenAI's endpoints), several prefixes on one base model
  convert    a prefix of another library as one of this, and back
  inspect    where in a model a prefix goes, and how it attends; what is inside a trained one; memory (--plan)
  push       publish a trained prefix on the Hugging Face Hub
  pull       fetch one from there, and see what it is
  recipes    the paper's hyperparameters, which train and evaluate take as --recipe NAME
  demo       train and show a prefix on the embedded base model, offline, in a few minutes

  prefix-peft train    --model gpt2-medium --train-file pairs.jsonl --output-dir my-prefix
  prefix-peft distill  --model gpt2-medium --document-file manual.txt --output-dir manual
  prefix-peft evaluate --model gpt2-medium --adapter my-prefix --data-file test.jsonl
  prefix-peft score    --protocol webnlg --predictions texts.txt --references test.jsonl
  prefix-peft generate --model gpt2-medium --adapter my-prefix --prompt "name : Ada | field : mathematics"
  prefix-peft push     my-prefix my-name/my-prefix --private
  prefix-peft serve    --model gpt2-medium --adapter my-prefix --adapter other=runs/prefix-2 --port 8000
"""


def train_command(arguments: TrainArguments) -> None:
    """Train; afterwards say what was written and how to use it."""
    from .commands.report import plot_learning_curve
    from .training.train import train

    trained = train(arguments)
    if not _is_first():
        return
    curve = plot_learning_curve(trained.progress.log, Path(arguments.output_dir, "learning_curve.png"))
    _say_where(arguments, curve)


def distill_command(arguments: DistillArguments) -> None:
    """Distil; afterwards compare with what else could stand before a text, and say how to use the prefix."""
    from .commands.report import plot_learning_curve, scores_table
    from .training.distillation import distill

    distilled = distill(arguments)
    if not _is_first():
        return
    curve = plot_learning_curve(distilled.progress.log, Path(arguments.output_dir, "learning_curve.png"))
    print("\n" + scores_table(distilled.scores, digits=3))
    _say_where(arguments, curve)


def evaluate_command(arguments: EvaluateArguments) -> None:
    """Score; print a table, and write every generation where asked to."""
    from .commands.report import scores_table
    from .evaluation.scoring import evaluate, explained

    result = evaluate(arguments)
    if not _is_first():
        return
    print("\n".join([scores_table(result.scores), *explained(result.unavailable)]))
    if arguments.output_file:
        write_text(Path(arguments.output_file), json.dumps(result.as_dict(), indent=1, ensure_ascii=False))
    if arguments.card:
        from .evaluation.scored_card import add_to_card

        print(add_to_card(result))


def score_command(arguments: ScoreArguments) -> None:
    """Score the texts of a file; print a table and the same as JSON."""
    from .commands.report import scores_table
    from .evaluation.scoring import explained, score_texts

    report = score_texts(arguments)
    print(
        "\n".join([scores_table({str(arguments.predictions): report.scores}, digits=4), *explained(report.unavailable)])
    )
    text = json.dumps({"protocol": arguments.protocol, **asdict(report)}, ensure_ascii=False)
    print(text)
    if arguments.output_file:
        write_text(Path(arguments.output_file), text)


def generate_command(arguments: GenerateArguments) -> None:
    """Print what the model writes, one line for each source."""
    from .commands.models import load_prefix, recall_separator
    from .evaluation.texts import generate_texts
    from .training.samples import read_lines

    sources = [arguments.prompt] if arguments.prompt is not None else read_lines(str(arguments.input_file))
    model, tokenizer = load_prefix(arguments.model, arguments.adapter, arguments.bits, arguments.dtype)
    texts = generate_texts(
        model, tokenizer, sources, separator=recall_separator(arguments.adapter, arguments.separator),
        batch_size=arguments.per_device_eval_batch_size, **arguments.decoding(),
    )  # fmt: skip
    if _is_first():
        print("\n".join(text.replace("\n", " ") for text in texts))


def inspect_command(arguments: InspectArguments) -> None:
    """Print the sites as a table, or what a plan takes, or what is inside a trained prefix."""
    if arguments.plan:
        from .planning.command import plan

        print(plan(arguments))
        return
    if arguments.adapter is not None:
        from .inside.command import look_inside

        print(look_inside(arguments))
        return
    from .commands.models import load_base
    from .commands.report import sites_table
    from .inspecting import inspect
    from .wrap import wrap

    print(sites_table(inspect(wrap(load_base(arguments.model, arguments.bits, arguments.dtype)[0]))))


COMMANDS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "train": (TrainArguments, train_command),
    "distill": (DistillArguments, distill_command),
    "evaluate": (EvaluateArguments, evaluate_command),
    "score": (ScoreArguments, score_command),
    "generate": (GenerateArguments, generate_command),
    "convert": (ConvertArguments, convert_command),
    "inspect": (InspectArguments, inspect_command),
    "push": (PushArguments, push_command),
    "pull": (PullArguments, pull_command),
}


class _Help(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults beside the options, and descriptions as they were written."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for what cannot be done as asked, and a shell's for signals."""
    argv = sys.argv[1:] if argv is None else argv
    # PEFT asks transformers an old question whenever it wraps a model; no user can do anything about it
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] == "demo":
        from .demo.run import main as demo

        return demo(argv[1:])
    known = [*COMMANDS, "serve", "recipes", "demo"]
    if argv[0] not in known:
        print(f"prefix-peft: unknown command {argv[0]!r}; choose from {known}.", file=sys.stderr)
        return 2
    try:
        if argv[0] == "recipes":
            show_recipes(argv[1:])
            return 0
        if argv[0] == "serve":
            from .serving.command import main as serve

            serve(argv[1:])
            return 0
        parser = _parser(argv[0])
        if argv[0] in ("train", "evaluate"):
            add_recipe(parser, _parser(argv[0]), argv[0], argv[1:])
        arguments = parser.parse_args_into_dataclasses(argv[1:])[0]
        COMMANDS[argv[0]][1](arguments)
        leave()
    except (ValueError, OSError, FloatingPointError, NotImplementedError, ImportError) as error:
        rank = os.environ.get("RANK", "0")  # bad data is bad on every rank, but a disk may be full on one
        print(f"prefix-peft {argv[0]}{'' if rank == '0' else f', rank {rank}'}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"prefix-peft {argv[0]}: {str(stop) or 'stopped.'}", file=sys.stderr)
        return getattr(stop, "status", 130)
    return 0


def _parser(command: str) -> HfArgumentParser:
    kind: Any = COMMANDS[command][0]
    parser = HfArgumentParser(
        kind, prog=f"prefix-peft {command}", description=cleandoc(str(kind.__doc__)), formatter_class=_Help
    )
    for action in parser._actions:
        if action.dest == "resume_from_checkpoint":
            action.nargs, action.const = "?", "last"
        if action.dest in getattr(kind, "positional", ()):
            for name in action.option_strings:
                del parser._option_string_actions[name]
            action.option_strings, action.required = [], True
    if command == "inspect":
        parser.add_argument("adapter", nargs="?", default=SUPPRESS, metavar="ADAPTER", help="The same as --adapter.")
    return parser


def _is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    from accelerate import PartialState

    return PartialState().is_main_process


def _say_where(arguments: TrainArguments | DistillArguments, curve: Path | None) -> None:
    beside = f" with {curve.name}" if curve else ""
    print(f"\nThe prefix, its model card and log are in {arguments.output_dir}{beside}.")
    base = f"{arguments.model} --load-in-{arguments.bits}bit" if arguments.bits else arguments.model
    print(f'Try it: prefix-peft generate --model {base} --adapter {arguments.output_dir} --prompt "..."')


if __name__ == "__main__":
    sys.exit(main())
