"""The pairs on which a prefix is trained, and those on which it is measured."""

from __future__ import annotations

from functools import partial

from transformers import PreTrainedTokenizerBase

from .arguments import TrainArguments
from .batches import EncodedPairs, encode_pairs
from .tasks import load_task, read_jsonl, training_pairs


def load_data(
    arguments: TrainArguments, tokenizer: PreTrainedTokenizerBase, seq2seq: bool
) -> tuple[EncodedPairs, EncodedPairs | None]:
    if arguments.task is not None:
        assert arguments.data_dir is not None  # check_task saw to it
        records = load_task(arguments.task, arguments.data_dir, "train")
        held_out = load_task(arguments.task, arguments.data_dir, "validation")
    else:
        records = read_jsonl(str(arguments.train_file))
        held_out = read_jsonl(arguments.validation_file) if arguments.validation_file else []
    encode = partial(
        encode_pairs, tokenizer=tokenizer, is_encoder_decoder=seq2seq, separator=arguments.separator,
        max_source_length=arguments.max_source_length, max_target_length=arguments.max_target_length,
    )  # fmt: skip
    pairs = encode(training_pairs(records))
    validation = encode([(record.source, record.references[0]) for record in held_out]) if held_out else None
    for name, encoded in (("training", pairs), ("validation", validation)):
        if encoded is not None and encoded.truncated:
            print(f"{encoded.truncated} of {len(encoded)} {name} pairs are longer than the model reads and were cut.")
    return pairs, validation
