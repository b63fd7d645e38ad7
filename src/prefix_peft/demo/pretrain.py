"""Pretraining of the demo's base model: a small GPT-2 that can word a record, and much else it was not asked for.

Run as `python -m prefix_peft.demo.pretrain --output-dir DIR`. Time, not steps, is the budget, because the text is
endless: the learning rate follows a warm-up and a cosine over the minutes given. Needs torch 2.9 or newer, for Muon.
"""

import argparse
import math
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .records import ARROW, pretraining_texts

END = "<|endoftext|>"
VOCABULARY, CONTEXT, BATCH = 1024, 256, 8
WIDTH, LAYERS, HEADS = 192, 5, 6
ONE_BACK = 2.0  # how sharply the given heads look
WARM_UP = 0.03  # of the time given
MUON_PEAK, ADAMW_PEAK = 8e-3, 1.5e-3


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as GPT-2 has it, of a size that fits the small world of the records."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(pretraining_texts(20_000, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=CONTEXT
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """No dropout: the text is endless, so nothing can be overfitted."""
    end: Any = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    look_one_back(model)
    return model


@torch.no_grad()
def look_one_back(model: GPT2LMHeadModel) -> None:
    """Start two heads of the first layer as "the token before this one", which copying is built on.

    Positions start as sinusoids, so one step back is a rotation that the query of a head can be given. Found by chance,
    such heads take most of a short pretraining; given, the heads that copy grow on them within minutes. Embeddings
    start larger than GPT-2's, lest what training adds to the tokens drown the positions.
    """
    transformer: Any = model.transformer
    half, size = WIDTH // 2, WIDTH // HEADS
    speeds = 1.5 * torch.exp(-math.log(1e4) * torch.arange(half) / half)
    angles = torch.arange(CONTEXT)[:, None] * speeds
    transformer.wte.weight.mul_(5)
    transformer.wpe.weight.copy_(0.2 * torch.cat((angles.sin(), angles.cos()), dim=1))
    pairs = torch.arange(size // 2)
    sine, cosine = pairs, half + pairs
    weight = transformer.h[0].attn.c_attn.weight
    for head in range(2):
        first, second = head * size + pairs, head * size + size // 2 + pairs
        weight[sine, first] = weight[cosine, second] = ONE_BACK * speeds[pairs].cos()
        weight[cosine, first] = -ONE_BACK * speeds[pairs].sin()
        weight[sine, second] = ONE_BACK * speeds[pairs].sin()
        weight[sine, WIDTH + first] = weight[cosine, WIDTH + second] = ONE_BACK


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of full windows. A window starts with a document, as a prompt does, and may cut its last one.

    What stands before the arrow is read but not predicted: its invented names are noise to whoever has to guess them,
    and without that noise the model learns to copy them much sooner.
    """
    windows, ids, labels = [], [], []
    for chunk in count():
        halves = [text.rpartition(ARROW) for text in pretraining_texts(1000, seed * 1_000_003 + chunk)]
        given = tokenizer([before + arrow for before, arrow, _ in halves])["input_ids"]
        told = tokenizer([after + END for _, _, after in halves])["input_ids"]
        for before, after in zip(given, told, strict=True):
            ids += before + after
            labels += [-100] * len(before) + after
            if len(ids) >= CONTEXT:
                windows.append((ids[:CONTEXT], labels[:CONTEXT]))
                ids, labels = [], []
            if len(windows) == BATCH:
                stacked = torch.tensor(windows)
                yield {"input_ids": stacked[:, 0], "labels": stacked[:, 1]}
                windows = []


def build_optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, which learn to copy in a fraction of the steps, and AdamW for the rest."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=MUON_PEAK, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=ADAMW_PEAK, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def validation_loss(model: GPT2LMHeadModel, held_out: list[dict[str, torch.Tensor]]) -> float:
    with torch.no_grad():
        return sum(model(**batch).loss.item() for batch in held_out) / len(held_out)


def pretrain(minutes: float, seed: int) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = build_model(tokenizer)
    unseen = batches(tokenizer, seed + 1)
    held_out = [next(unseen) for _ in range(8)]
    optimizers = build_optimizers(model)
    begin, spent = time.monotonic(), 0.0
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}") as bar:
        for step, batch in enumerate(batches(tokenizer, seed), 1):
            rate = min(1.0, (spent + 1e-3) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * spent))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = optimizer.defaults["lr"] * rate
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            spent = min(1.0, (time.monotonic() - begin) / (60 * minutes))
            bar.update(100 * spent - bar.n)
            if step % 20 == 0:
                bar.set_postfix(step=step, loss=f"{loss.item():.3f}")
            if spent == 1.0:
                break
    print(f"{step} steps, validation loss {validation_loss(model, held_out):.4f}")
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m prefix_peft.demo.pretrain", description="Pretrain the demo's base")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model, tokenizer = pretrain(arguments.minutes, arguments.seed)
    model.half().save_pretrained(arguments.output_dir)
    tokenizer.save_pretrained(arguments.output_dir)
    size = sum(file.stat().st_size for file in arguments.output_dir.iterdir())
    print(f"{model.num_parameters():,} parameters, {size / 1e6:.2f} MB in {arguments.output_dir}")


if __name__ == "__main__":
    main()
