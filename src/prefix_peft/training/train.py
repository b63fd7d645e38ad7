"""From arguments to a trained prefix: data, model, run and results."""

from __future__ import annotations

from pathlib import Path

from ..commands.arguments import TrainArguments
from ..commands.models import load_base
from ..data.hub import dataset_of
from ..data.pairs import load_data
from ..evaluation.loss import target_loss
from ..ranks.place import begin
from ..wrap import wrap
from .examples import start_from_pairs
from .results import Trained, write_results
from .run import Run


def train(arguments: TrainArguments) -> Trained:
    """Train a prefix, writing release, card, log and checkpoints to ``output_dir``.

    Raises:
        ValueError: data, arguments or checkpoint make no sense; said before training starts.
        FloatingPointError: the loss or its gradient is no longer finite.
        OSError: something cannot be written.
        Interrupted: SIGTERM or Ctrl-C, after a checkpoint.
    """
    accelerator = begin(arguments)
    base, tokenizer = load_base(arguments.model, arguments.bits, arguments.dtype)
    pairs, validation = load_data(arguments, tokenizer, base.config.is_encoder_decoder)
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)  # what cannot be written to is said now
    model = wrap(
        base, arguments.num_virtual_tokens, prefix_projection=arguments.prefix_projection,
        encoder_hidden_size=arguments.encoder_hidden_size, scale_parameter=arguments.scale_parameter,
        prefix_dropout=arguments.prefix_dropout,
        base_dropout=arguments.base_dropout, num_frozen_tokens=arguments.num_frozen_tokens, gate=arguments.gate,
        init_text=arguments.init_text,
    )  # fmt: skip
    if arguments.init_examples:
        start_from_pairs(model, pairs, arguments.seed)
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    progress = Run(arguments, accelerator, model, tokenizer, pairs, validation, target_loss).finish()
    data = f"{arguments.task or Path(str(arguments.train_file)).name}, {len(pairs):,} pairs"
    dataset = dataset_of(arguments.task, "train", arguments.train_file)
    held_out = dataset_of(arguments.task, "validation", arguments.validation_file)
    trained = Trained(model, tokenizer, progress, data, dataset, held_out)
    write_results(arguments, trained)
    return trained
