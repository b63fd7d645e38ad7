"""Context distillation: a short prefix that does what a long document in view does.

The teacher is the frozen model behind the whole document, which it reads once, into a prefix of real tokens. The
student is the same model behind a short prefix, trained on texts that the teacher wrote to have the teacher's
next-token distributions: context distillation (Snell et al. 2022, arXiv:2209.15189) into keys and values, over texts
of the model's own, as in Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..card.facts import Dataset
from ..commands.arguments import DistillArguments
from ..commands.models import load_base
from ..config import PrefixConfig
from ..data.batches import IGNORED, encode_prompts
from ..data.lines import read_text
from ..initialize import initialize_kv_prefix_from_tokens
from ..layer import BASE
from ..ranks.place import begin
from ..ranks.sharing import summed
from ..wrap import wrap
from .checkpoints import checkpoint_to_resume
from .results import Trained, write_results
from .run import Run
from .samples import SAMPLES_FILE, Sample, continued, encoded, prompts_for, read_samples, write_samples

METHOD = "context distillation (arXiv:2209.15189) over texts of the model's own (arXiv:2506.06266)"
STUDENT, TEACHER, TRUNCATED = "default", "document", "truncated"  # adapters
SYSTEMS = {"nothing": BASE, "the document's beginning": TRUNCATED, "the prefix": STUDENT, "the document": TEACHER}


@dataclass
class Distilled(Trained):
    """What `distill` returns: besides, how near the teacher each system is that could stand before a text."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # of SYSTEMS: KL and loss, nats per token


def distill(arguments: DistillArguments) -> Distilled:
    """Train a short prefix to stand for a document, writing release, card, log and checkpoints to ``output_dir``.

    Raises:
        ValueError: document, prompts, arguments or checkpoint make no sense; said before training starts.
        FloatingPointError: the loss or its gradient is no longer finite.
        OSError: something cannot be written.
        Interrupted: SIGTERM or Ctrl-C, after a checkpoint.
    """
    accelerator = begin(arguments)
    base, tokenizer = load_base(arguments.model, arguments.bits, arguments.dtype)
    document = read_document(arguments, base, tokenizer)
    prompts = prompts_for(arguments, tokenizer, document)
    _check_room(arguments, tokenizer, len(document), max(map(len, prompts)))
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    model = with_document(base if arguments.bits else base.to(accelerator.device), document, arguments)
    samples = _samples(arguments, accelerator, model, tokenizer, prompts)
    training, validation = encoded(samples[: arguments.num_samples]), encoded(samples[arguments.num_samples :])
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    run = Run(arguments, accelerator, model, tokenizer, training, validation, divergence)
    progress = run.finish()
    name = Path(arguments.document_file).name
    data = f"{name} ({len(document):,} tokens), {len(training):,} texts written behind it"
    distilled = Distilled(model, tokenizer, progress, data, Dataset(name), Dataset(name), "KL to the document", METHOD)
    write_results(arguments, distilled)
    with accelerator.autocast():
        distilled.scores = compare(model, run.validation_batches())
    return distilled


def read_document(arguments: DistillArguments, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The tokens (D,) of the document, as the tokenizer reads any text.

    Raises:
        ValueError: nothing in it, more than the model can read, or a model that has no document in view.
    """
    if base.config.is_encoder_decoder:
        raise ValueError(f"{arguments.model} is an encoder-decoder; a document stands before a causal model's text.")
    text = read_text(arguments.document_file)
    if not text.strip():
        raise ValueError(f"{arguments.document_file} is empty; give a document with text.")
    (ids,) = encoded = encode_prompts([text], tokenizer, is_encoder_decoder=False, separator="")
    if encoded.truncated:
        raise ValueError(
            f"{arguments.document_file} is longer than the {tokenizer.model_max_length} tokens that {arguments.model} "
            "can read; cut it."
        )
    return torch.tensor(ids)


def _check_room(arguments: DistillArguments, tokenizer: PreTrainedTokenizerBase, document: int, prompt: int) -> None:
    needed = document + prompt + arguments.max_new_tokens
    if needed > tokenizer.model_max_length:
        raise ValueError(
            f"the document of {document} tokens, a prompt of {prompt} and {arguments.max_new_tokens} new tokens make "
            f"{needed}, more than the {tokenizer.model_max_length} that {arguments.model} can read; cut the document, "
            "or lower --max-new-tokens."
        )


def with_document(base: PreTrainedModel, document: Tensor, arguments: DistillArguments) -> PeftModel:
    """A wrapped model that can be the student (which is active), the teacher, or behind the document's beginning."""
    model = wrap(base, arguments.num_virtual_tokens, num_frozen_tokens=arguments.num_frozen_tokens)
    beginning = document[: arguments.num_virtual_tokens]
    initialize_kv_prefix_from_tokens(model, beginning)
    for name, tokens in ((TRUNCATED, beginning), (TEACHER, document)):
        config = PrefixConfig(num_virtual_tokens=len(tokens), task_type=model.peft_config[STUDENT].task_type)
        config.filled_by_caller = True
        model.add_adapter(name, config)
        initialize_kv_prefix_from_tokens(model, tokens, adapter_name=name)
    return model


def _samples(
    arguments: DistillArguments,
    accelerator: Accelerator,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
) -> list[Sample]:
    """What the teacher writes behind ``prompts``; a resumed run goes on with what was written for it."""
    path = Path(arguments.output_dir, SAMPLES_FILE)
    if checkpoint_to_resume(arguments) is not None and path.is_file():
        return read_samples(path)
    model.eval()
    model.set_adapter(TEACHER)
    samples = continued(
        model, tokenizer, prompts, max_new_tokens=arguments.max_new_tokens, temperature=arguments.temperature,
        batch_size=arguments.per_device_eval_batch_size, seed=arguments.seed,
    )  # fmt: skip
    model.set_adapter(STUDENT)
    if accelerator.is_main_process:
        write_samples(path, samples, tokenizer)
    return samples


def divergence(model: nn.Module, batch: dict[str, Tensor], _: bool = False) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) summed over the target tokens of a batch, and how many they are."""
    with torch.no_grad():
        teacher = _log_probabilities(model, batch, TEACHER)
    student = _log_probabilities(model, batch)
    return F.kl_div(student, teacher, reduction="sum", log_target=True), (batch["labels"][:, 1:] != IGNORED).sum()


def _log_probabilities(model: nn.Module, batch: dict[str, Tensor], adapter_name: str | None = None) -> Tensor:
    """(tokens, vocabulary) for all target tokens, behind one of the prefixes or the active one."""
    rows = {} if adapter_name is None else {"adapter_names": [adapter_name] * len(batch["input_ids"])}
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = model(**inputs, use_cache=False, **rows).logits[:, :-1]
    return logits[batch["labels"][:, 1:] != IGNORED].float().log_softmax(-1)


@torch.no_grad()
def compare(model: PeftModel, batches: Iterable[dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """How far each of SYSTEMS is from the teacher on its own texts, and its loss on them: nats per token."""
    model.eval()
    sums, tokens = {system: torch.zeros(2) for system in SYSTEMS}, 0
    for batch in batches:
        targets = batch["labels"][:, 1:]
        targets = targets[targets != IGNORED]
        teacher = _log_probabilities(model, batch, TEACHER)
        for system, adapter_name in SYSTEMS.items():
            ours = _log_probabilities(model, batch, adapter_name)
            far = F.kl_div(ours, teacher, reduction="sum", log_target=True)
            loss = F.nll_loss(ours, targets, reduction="sum")
            sums[system] += torch.stack([far, loss]).cpu()
        tokens += len(targets)
    (all_tokens,) = summed(tokens)
    return {
        system: dict(zip(("KL", "loss"), (part / all_tokens for part in summed(*both.tolist())), strict=True))
        for system, both in sums.items()
    }
