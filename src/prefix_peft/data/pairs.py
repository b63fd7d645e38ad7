"""The pairs on which a prefix is trained and measured, and what is odd about them, said before training starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from ..commands.arguments import TrainArguments
from .batches import EncodedPairs, encode_pairs
from .records import Record
from .tasks import load_task, read_jsonl, training_pairs

PLACES = 3  # of each kind that a report names
OUTCOMES = {"cut": "they are cut", "drop": "they are left out"}


def load_data(
    arguments: TrainArguments, tokenizer: PreTrainedTokenizerBase, seq2seq: bool
) -> tuple[EncodedPairs, EncodedPairs | None]:
    """The training pairs, and the validation pairs if there are any. Prints what `report` and the lengths say.

    Raises:
        ValueError: a line that cannot be read, or pairs that are too long and to be refused.
        FileNotFoundError: no such file.
    """
    records, held_out = _records(arguments)
    encode = partial(
        encode_pairs, tokenizer=tokenizer, is_encoder_decoder=seq2seq, separator=arguments.separator,
        max_source_length=arguments.max_source_length, max_target_length=arguments.max_target_length,
        too_long=arguments.too_long,
    )  # fmt: skip
    pairs = encode(training_pairs(records))
    validation = encode([(record.source, record.references[0]) for record in held_out]) if held_out else None
    lines = [
        f"{encoded.truncated:,} {name} pairs are longer than the model reads (the longest has {encoded.longest:,} "
        f"tokens); {OUTCOMES[arguments.too_long]} (--too-long)."
        for name, encoded in (("training", pairs), ("validation", validation))
        if encoded is not None and encoded.truncated
    ]
    for line in [*lines, *report(records, held_out)]:
        PartialState().print(line)
    return pairs, validation


def _records(arguments: TrainArguments) -> tuple[list[Record], list[Record]]:
    if arguments.task is not None:
        train, validation = (load_task(arguments.task, arguments.data_dir, split) for split in ("train", "validation"))
        return train, validation
    held_out = read_jsonl(arguments.validation_file) if arguments.validation_file else []
    return read_jsonl(str(arguments.train_file)), held_out


def report(records: Sequence[Record], held_out: Sequence[Record] = ()) -> list[str]:
    """What is odd about training and validation records, a line for each kind: copies, contested ids, and overlap."""
    lines = []
    for name, part in (("training", records), ("validation", held_out)):
        pairs = _by((pair, record.place) for record in part for pair in training_pairs([record]))
        copies = [places for places in pairs.values() if len(places) > 1]
        if copies:
            extra = sum(map(len, copies)) - len(copies)
            lines.append(f"{extra:,} {name} pairs are copies of others: {_shown(copies)}.")
    contents = _by((record.id, record) for record in [*records, *held_out] if record.id is not None)
    contested = [[record.place for record in same] for same in contents.values() if len(set(same)) > 1]
    if contested:
        lines.append(f"{len(contested):,} ids stand for different records: {_shown(contested)}.")
    trained = _by((record.source, record) for record in records)
    seen = [(record, trained[record.source][0]) for record in held_out if record.source in trained]
    if seen:
        known = set(training_pairs(records))
        leaked = sum(any(pair in known for pair in training_pairs([record])) for record, _ in seen)
        lines.append(
            f"{len(seen):,} of {len(held_out):,} validation sources are trained on ({leaked:,} with the same target), "
            f"so the validation loss says less: {_shown([[record.place, other.place] for record, other in seen])}."
        )
    return lines


def _by(items: Iterable[tuple[Hashable, Any]]) -> dict[Hashable, list[Any]]:
    """The values of each key."""
    found = defaultdict(list)
    for key, value in items:
        found[key].append(value)
    return found


def _shown(groups: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(" = ".join(places[:PLACES]) for places in groups[:PLACES])
    return shown + (f"; and {len(groups) - PLACES:,} more" if len(groups) > PLACES else "")
