"""The code of the documentation, and small models and files that stand for those it names."""

import json
import re
import shlex
import textwrap
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as tr
import yaml

from prefix_peft.__main__ import _parser, main
from prefix_peft.commands.models import load_base
from prefix_peft.commands.recipe_command import add_recipe
from prefix_peft.demo import records
from prefix_peft.demo.run import BASE
from prefix_peft.serving.command import _parser as serve_parser

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(?:^ *<!-- (not run|parsed): ([^\n]+) -->\n)?^( *)```(python|sh)\n(.*?)^\3```$", re.M | re.S)
TRAINING = ("train", "distill")


@dataclass(frozen=True)
class Block:
    """A piece of code on a page, and why it is not run, if it is not."""

    page: str
    line: int
    language: str
    code: str
    mark: str
    reason: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line."""
        return [
            words for line in self.code.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))
        ]


def pages() -> list[str]:
    """By their paths: the README, and what is on the site."""
    left_out = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["exclude_docs"].split()
    paths = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in left_out]
    return [str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *paths]]


def blocks(page: str) -> list[Block]:
    """All of a page that a reader might run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        mark, reason, _, language, code = match.groups(default="")
        found.append(Block(page, text[: match.start(5)].count("\n"), language, textwrap.dedent(code), mark, reason))
    return found


def run(block: Block, namespace: dict) -> None:
    """Do what the block says, with shorter trainings."""
    if block.language == "python":
        code = re.sub(r"^steps = \d+$", "steps = 2", block.code, flags=re.M).replace("max_steps=300", "max_steps=2")
        exec(compile("\n" * block.line + code, block.page, "exec"), namespace)
    for words in block.commands if block.language == "sh" else []:
        if words[0] == "prefix-peft" and words[1] in TRAINING:
            words = [*words, "--max-steps", "2"]  # the last one counts
        if words[0] != "prefix-peft":
            check(words)
        else:
            assert main(words[1:]) == 0, (block.page, words)


def check(words: list[str]) -> None:
    """That there is what a command asks for. Nothing is run.

    Raises:
        ValueError: a command of which nothing is known here.
    """
    if "-m" in words:
        words = ["prefix-peft", *words[words.index("-m") + 2 :]]
    if words[0] == "prefix-peft":
        parse(words[1], words[2:])
    elif words[:2] == ["pip", "install"]:
        config = ConfigParser()
        config.read(ROOT / "setup.cfg")
        assert set(re.findall(r"\[(\w+)\]", words[-1])) <= set(config["options.extras_require"]), words
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), words
    else:
        raise ValueError(f"{words} is no command that a page can be held to; teach it to tests/pages.py.")


def parse(command: str, options: list[str]) -> None:
    """Let the command's own parser read its options."""
    if command in ("demo", "recipes"):
        assert not options
        return
    if command == "serve":
        serve_parser().parse_args(options)
        return
    parser = _parser(command)
    if command in ("train", "evaluate"):
        add_recipe(parser, _parser(command), command, options)
    parser.parse_args_into_dataclasses(options)


def make_models(folder: Path) -> None:
    """The demo's base for every GPT-2, and random models that read with its tokenizer."""
    model, tokenizer = load_base(str(BASE))
    torch.manual_seed(0)
    llama = tr.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    t5 = tr.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    small = {
        "gpt2": model,
        "gpt2-medium": model,
        "t5-small": tr.T5ForConditionalGeneration(t5),
        "meta-llama/Llama-3.2-1B": tr.LlamaForCausalLM(llama),
    }
    for name, stand_in in small.items():
        stand_in.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def make_files(folder: Path) -> None:
    """Pairs, texts and configs by the names that the pages use."""
    pairs = [{"source": "name : Ada", "target": "Ada is here."}, {"source": "name : Bob", "target": "Bob is here."}] * 4
    lines = {
        "pairs.jsonl": map(json.dumps, pairs),
        "test.jsonl": [json.dumps(pair) for pair in records.pairs("test")[:1]],
        "texts.txt": ["Ada is here."],
    }
    for name, texts in lines.items():
        (folder / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 1}
    (folder / "llama-8b.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 128} | sizes))
