"""``prefix-peft serve``: transformers' server, in front of one base model and any number of prefixes for it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftConfig

from ..config import PrefixConfig
from ..layer import BASE
from ..plugin.standing import stand_before

DESCRIPTION = """
A request's "model" is the base, by the name behind --model, or a prefix, by its own. All share one model in memory.
What else is given goes to transformers' server, as --continuous-batching or --port: 'transformers serve --help'.
"""
NEEDS = "it needs transformers' server (pip install 'prefix-peft[serving]'), and {}."


def main(argv: Sequence[str]) -> None:
    """Serve until stopped.

    Raises:
        ImportError: without the packages of transformers' server, or a transformers without one.
        ValueError: two prefixes of one name, a name that none can have, or a directory that holds no prefix.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(_parser().format_help())
        return _server()(["--help"])
    options, others = _parser().parse_known_args(argv)
    prefixes = by_name(options.adapter, options.model)
    with _prefixes_in_transformers(prefixes):
        _server()([options.model, *others])


def by_name(adapters: Sequence[str], base: str) -> dict[str, str]:
    """The directories of ``adapters``, each NAME=DIRECTORY or a directory, which is then called by its last part.

    Raises:
        ValueError: see `main`.
    """
    found: dict[str, str] = {}
    for given in adapters:
        name, equals, directory = given.partition("=")
        if not equals or "/" in name:
            name, directory = Path(given).resolve().name, given
        if name in (*found, base, BASE, "") or "." in name:
            raise ValueError(
                f"--adapter {given}: a prefix cannot be called {name!r}, as that is taken, empty or has a dot; "
                f"choose another name: --adapter NAME={directory}."
            )
        config = PeftConfig.from_pretrained(directory)
        if not isinstance(config, PrefixConfig):
            raise ValueError(f"--adapter {given}: {directory} holds a {type(config).__name__}, and no prefix.")
        found[name] = directory
    return found


def _parser() -> ArgumentParser:
    parser = ArgumentParser("prefix-peft serve", description=DESCRIPTION, add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="the base model, a directory or an id of the Hub")
    parser.add_argument(
        "--adapter", action="append", required=True, metavar="[NAME=]DIR",
        help="a trained prefix, and what requests call it, by default DIR's last part; once for each prefix",
    )  # fmt: skip
    return parser


def _server() -> Callable[[Sequence[str]], Any]:
    """``transformers serve``, as a function of its command line."""
    try:
        import typer
        from transformers.cli.serve import Serve
    except ImportError as error:
        raise ImportError(NEEDS.format(error)) from error
    app = typer.Typer(add_completion=False)
    app.command()(Serve)
    return partial(app, prog_name="prefix-peft serve")


@contextmanager
def _prefixes_in_transformers(prefixes: dict[str, str]) -> Iterator[None]:
    """Inside, a server of transformers' is made of our classes, and serves these prefixes."""
    try:
        from transformers.cli.serving import model_manager, server, utils  # noqa: F401 (it must know its own first)

        from .models import PrefixModelManager, base_unless_named
        from .requests import PrefixGenerationState
    except ImportError as error:
        raise ImportError(NEEDS.format(error)) from error
    stand_before(utils.BaseHandler, "_resolve_model", base_unless_named)
    held: Any = model_manager.ModelManager, utils.GenerationState
    ours: Any = partial(PrefixModelManager, prefixes), partial(PrefixGenerationState, prefixes)
    model_manager.ModelManager, utils.GenerationState = ours
    try:
        yield
    finally:
        model_manager.ModelManager, utils.GenerationState = held
