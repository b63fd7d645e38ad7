"""The command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .batches import MOST_TOKENS, Stream, batches
from .corpus import read_corpus
from .guide import Guide
from .loop import Budget, Training
from .mixture import Mixture
from .warm_start import warm_start

KINDS = ("decoder", "encoder-decoder")
HELD_OUT = {"denoising": 0.0, "prose": 1.0}  # and the share of prose in it
HELD_OUT_EXAMPLES = 120
EXAMPLES = """examples:
  python -m experiments.pretrain decoder --start gpt2-12m --corpus corpus --output gpt2-12m-denoise --minutes 25
  python -m experiments.pretrain encoder-decoder --start gpt2-12m --corpus corpus --output blenderbot --steps 2000

A corpus is a folder of *.txt.gz (see corpus.py); its valid_*.txt.gz are for validation alone."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    training = prepare(options)
    training.finish()
    print("\n".join(str(entry) for entry in training.log))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with a budget in steps or minutes."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.pretrain", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a base on plain text to restore noised sentences, from a GPT-2 that was trained on prose.",
    )  # fmt: skip
    parser.add_argument("kind", choices=KINDS, help="an encoder-decoder is made of the decoder's weights")
    parser.add_argument("--start", type=Path, required=True, help="directory of a GPT-2, or of an earlier run's result")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of *.txt.gz")
    parser.add_argument("--output", type=Path, required=True, help="directory to write; one that is there is replaced")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of training")
    budget.add_argument("--steps", type=int, help="of training; the result then depends on the seed alone")
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    parser.add_argument("--tokens", type=int, default=768, help="of a step, padding included (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at its peak (default: %(default)s)")
    parser.add_argument(
        "--copying", type=float, default=0.45,
        help="share of the training until when mere copies are in the majority; 0 for a base that can copy",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> Training:
    """Read all that is needed, and check it, before anything is trained."""
    budget = Budget(options.steps, options.minutes)
    files = sorted(options.corpus.glob("*.txt.gz"))
    own = [file for file in files if not file.name.startswith("valid_")]
    corpus, unseen = read_corpus(own), read_corpus(set(files) - set(own))
    model, tokenizer = load(options.start, options.kind)
    seq2seq = options.kind == "encoder-decoder"
    mask = tokenizer.mask_token if seq2seq else None
    mixture = Mixture(corpus, tokenizer.bos_token, mask, copying=options.copying, prose=0.1 if seq2seq else 0.2)
    held_out = {
        kind: batches(
            Mixture(unseen, tokenizer.bos_token, mask, copied=0.0, prose=share).draw(HELD_OUT_EXAMPLES, Random(0)),
            tokenizer, options.tokens, seq2seq,
        )
        for kind, share in HELD_OUT.items()
    }  # fmt: skip
    for kind, made in held_out.items():
        if not made:
            raise ValueError(
                f"no {kind} to validate by: every text of valid_*.txt.gz is longer than {MOST_TOKENS} tokens."
            )
    about = {key: str(value) for key, value in vars(options).items()} | {"mixture": mixture.shares()}
    return Training(
        model, tokenizer, Stream(mixture, tokenizer, options.tokens, options.seed),
        Guide.of(model, tokenizer), held_out, options.output, budget,
        options.learning_rate, about,
    )  # fmt: skip


def load(start: Path, kind: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model to train, in single precision and with eager attention, and its tokenizer.

    An encoder-decoder is made of a GPT-2, with tokens for pad and mask besides, or is what an earlier run left.

    Raises:
        ValueError: a decoder is wanted of an encoder-decoder.
    """
    tokenizer = AutoTokenizer.from_pretrained(start)
    found = AutoConfig.from_pretrained(start).is_encoder_decoder
    if found and kind == "decoder":
        raise ValueError(f"{start} holds an encoder-decoder; give a GPT-2 to --start, or ask for an encoder-decoder.")
    auto = AutoModelForSeq2SeqLM if found else AutoModelForCausalLM
    model = auto.from_pretrained(start, dtype=torch.float32)
    if kind != "decoder" and not found:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>", "mask_token": "<|mask|>"})
        model = warm_start(
            model, len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        )
    model.set_attn_implementation("eager")
    return model, tokenizer
