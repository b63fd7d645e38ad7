"""Accelerate: a training loop of one's own around a model of one's own, on one process or on many.

    python examples/accelerate_train.py                             # offline, on the embedded base model, a minute
    torchrun --nproc_per_node 2 examples/accelerate_train.py        # two processes, on GPUs or CPUs: the same prefix

Each step's pairs are shared among the ranks, whatever their number, and the loss is the mean over all target tokens. So
what is learnt does not depend on how many ranks there are. Nothing here changes for FSDP2 or DeepSpeed.
"""

import argparse
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefix_peft
from prefix_peft.data.batches import collate, encode_pairs, padding_id
from prefix_peft.demo import records, run
from prefix_peft.ranks.sharing import shared_batches

PAIRS_A_STEP = 7  # of all ranks together


class Smoothed(nn.Module):
    """A model of one's own with a prefixed one inside. Its loss is a sum, so that unequal shares weigh tokens alike."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensor:
        logits = self.language_model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
        return nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum", label_smoothing=0.02)


def main(argv: list[str] | None = None) -> list[float]:
    """Returns the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(run.BASE), help="a directory or an id of the Hub")
    parser.add_argument("--output-dir", default="runs/accelerate", help="where the prefix goes")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args(argv)

    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # torchrun alone does not say so
    torch.manual_seed(0)  # the same start on all ranks
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    model = Smoothed(prefix_peft.wrap(base, num_virtual_tokens=10)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    model, optimizer = accelerator.prepare(model, optimizer)

    texts = [(pair["source"], pair["references"][0]) for pair in records.pairs("train")]
    pairs = encode_pairs(texts, tokenizer, is_encoder_decoder=False, separator=run.SEPARATOR).examples
    padded = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=False)
    losses = []
    for step in range(options.steps):
        start = step * PAIRS_A_STEP % len(pairs)
        of_step = pairs[start : start + PAIRS_A_STEP]
        targets = sum(label >= 0 for pair in of_step for label in pair["labels"][1:])
        (batch,) = shared_batches(of_step, PAIRS_A_STEP, padded)  # this rank's share
        loss = model(**batch)
        accelerator.backward(loss * accelerator.num_processes / targets)  # ranks take the mean of their gradients
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), reduction="sum").item() / targets)
        if step % 10 == 0:
            accelerator.print(f"step {step:3d}  loss {losses[-1]:.3f}  on {accelerator.num_processes} rank(s)")

    prefixed = accelerator.unwrap_model(model).language_model
    prefixed.save_pretrained(options.output_dir, is_main_process=accelerator.is_main_process)  # on all ranks
    accelerator.print(f"The prefix is in {options.output_dir}.")
    accelerator.end_training()
    return losses


if __name__ == "__main__":
    main()
