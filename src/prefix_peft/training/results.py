"""What a run leaves behind: the release, its card, and the log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import PartialState
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..card.facts import Dataset, Facts, cached_revision, public_name, results
from ..card.files import CARD, has_own_card, write_card
from ..commands.arguments import DistillArguments, TrainArguments
from ..commands.models import remember_prompt
from ..gathering import full_prefix
from ..whole import whole_files, write_text
from .checkpoints import Progress, writing
from .interrupts import WRITING, Interrupts

LOG_FILE = "training_log.json"


@dataclass
class Trained:
    """The model with its prefix, the tokenizer, and what happened on the way."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    progress: Progress
    data: str  # what it was trained on, in words
    dataset: Dataset
    held_out: Dataset  # on which the loss was measured
    loss: str = "validation loss"
    method: str = "prefix-tuning"
    samples: Sequence[tuple[str, str]] = ()  # prompts and what the model writes, for the card


def write_results(
    arguments: TrainArguments | DistillArguments, trained: Trained, metrics: Mapping[str, float] | None = None
) -> None:
    """Write release, model card and log to ``output_dir``; ``metrics`` are scores that a later evaluation found.

    All ranks call it, for each may hold a part of the prefix; the first writes.

    Raises:
        OSError: they cannot be written; nothing that was there is changed then.
    """
    prefix = full_prefix(trained.model)
    if PartialState().is_main_process:
        _write(arguments, trained, metrics, prefix)
    PartialState().wait_for_everyone()  # so that whatever a rank does next, it finds them


def _write(
    arguments: TrainArguments | DistillArguments,
    trained: Trained,
    metrics: Mapping[str, float] | None,
    prefix: dict[str, Tensor],
) -> None:
    output, progress = Path(arguments.output_dir), trained.progress
    with Interrupts(WRITING), writing(output, progress):
        output.mkdir(parents=True, exist_ok=True)
        with whole_files(output) as draft:
            trained.model.save_pretrained(str(draft), selected_adapters=["default"], state_dict=prefix)
            remember_prompt(draft, arguments.separator)
            if has_own_card(output):
                (draft / CARD).unlink()
            else:
                write_card(draft, _facts(arguments, trained, metrics, prefix))
            write_text(draft / LOG_FILE, json.dumps(progress.to_keep(), indent=1))


def _facts(
    arguments: TrainArguments | DistillArguments,
    trained: Trained,
    metrics: Mapping[str, float] | None,
    prefix: dict[str, Tensor],
) -> Facts:
    model, progress = trained.model, trained.progress
    losses = [entry["validation_loss"] for entry in progress.log if "validation_loss" in entry]
    shown = (
        "prefix_projection", "scale_parameter", "init_text", "init_examples", "num_frozen_tokens", "gate",
        "temperature", "objective", "base_dropout", "learning_rate", "seed", "mixed_precision",
    )  # fmt: skip
    config = model.peft_config["default"]
    measured = {trained.loss: losses[-1]} if losses else {}
    return Facts(
        base_model=public_name(arguments.model),
        base_revision=cached_revision(arguments.model),
        task_type=config.task_type,
        name=Path(arguments.output_dir).resolve().name,
        parameters=released_parameters(model, prefix),
        num_virtual_tokens=arguments.num_virtual_tokens,
        data=trained.data,
        dataset=trained.dataset,
        samples=trained.samples,
        results=results(measured, trained.held_out, config.task_type),
        training={"method": trained.method, "steps": progress.step, "seconds": round(progress.seconds)}
        | {key: value for key, value in asdict(arguments).items() if key in shown and value not in (None, False)},
        metrics=({f"{trained.loss} before": losses[0], f"{trained.loss} after": losses[-1]} if losses else {})
        | dict(metrics or {}),
    )


def released_parameters(model: PeftModel, prefix: dict[str, Tensor] | None = None) -> int:
    """How many numbers the release holds; of the prefix that `full_prefix` put together, where several hold it."""
    release = get_peft_model_state_dict(model, state_dict=prefix, save_embedding_layers=False)
    return sum(tensor.numel() for tensor in release.values())
