"""Small runs of ``prefix-peft train``, each in a child of this process, which has imported everything already."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from prefix_peft.__main__ import main

from . import forks

WORDS = 60
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
# everything whose state a checkpoint has to hold
HARD = {
    "num-virtual-tokens": 3, "prefix-projection": True, "encoder-hidden-size": 13, "prefix-dropout": 0.2,
    "gradient-accumulation-steps": 2, "group-by-length": True, "per-device-train-batch-size": 2, "max-steps": 24,
    "save-steps": 2, "eval-steps": 3, "logging-steps": 1,
}  # fmt: skip


@contextmanager
def playground() -> Iterator[Path]:
    """A directory that anybody may read, with the base model and the data of `command`."""
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        folder.chmod(0o755)
        base_model().save_pretrained(folder / "base")
        tokenizer().save_pretrained(folder / "base")
        for name, count in (("train", 43), ("validation", 7)):
            (folder / f"{name}.jsonl").write_text(_records(count), "utf-8")
        yield folder


def base_model() -> GPT2LMHeadModel:
    """The same tiny random model each time."""
    torch.manual_seed(0)
    sizes = {"n_embd": 44, "n_layer": 2, "n_head": 4, "n_positions": 96, "vocab_size": WORDS, "initializer_range": 0.15}
    return GPT2LMHeadModel(GPT2Config(pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """Reads "w7 w8" as tokens 7 and 8."""
    vocabulary = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), WORDS)]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["pad_token", "bos_token", "eos_token", "unk_token"]
    return PreTrainedTokenizerFast(tokenizer_object=words, **dict(zip(names, SPECIAL, strict=True)))


def _records(count: int) -> str:
    draw = random.Random(count)
    texts = [[f"w{draw.randrange(len(SPECIAL), WORDS)}" for _ in range(draw.randint(2, 20))] for _ in range(count)]
    return "".join(json.dumps({"source": " ".join(text), "target": text[0]}) + "\n" for text in texts)


def command(folder: Path, output: Path, **options: object) -> list[str]:
    """The arguments of ``prefix-peft train``; options that are None are left out."""
    given = {
        "model": folder / "base", "train-file": folder / "train.jsonl", "validation-file": folder / "validation.jsonl",
        "output-dir": output,
    } | HARD | {name.replace("_", "-"): value for name, value in options.items()}  # fmt: skip
    pairs = [[f"--{name}", str(value)] for name, value in given.items() if value is not None]
    return ["train", *(word for pair in pairs for word in pair)]


def start(arguments: list[str], said: Path, before: Callable[[], None] | None = None) -> ForkProcess:
    """The command as a process of its own that writes what it says to ``said``; ``before`` is called in it first."""
    return forks.fork(lambda: main(arguments), said, before)


def what_is_left(output: Path, step: int = HARD["max-steps"]) -> dict[str, Tensor | str]:
    """All that a run has come to: prefix, parameters, optimizer, random states and log."""
    last = output / f"checkpoint-{step}"
    prefix = {f"release.{key}": tensor for key, tensor in load_file(output / "adapter_model.safetensors").items()}
    logs = [
        json.loads(file.read_text("utf-8")) for file in (output / "training_log.json", last / "training_state.json")
    ]
    log = json.dumps([{key: value for key, value in log.items() if key in ("step", "log")} for log in logs])
    return prefix | load_file(last / "training_state.safetensors") | {"log": log}


def differences(found: dict[str, Tensor | str], wanted: dict[str, Tensor | str]) -> list[str]:
    """The names of what is not the same bit for bit."""
    return sorted(name for name in found.keys() | wanted.keys() if not _same(found.get(name), wanted.get(name)))


def _same(a: Tensor | str | None, b: Tensor | str | None) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
    return isinstance(a, str) and a == b
