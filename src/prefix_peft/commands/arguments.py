"""What can be asked of ``prefix-peft``; the names are those of transformers' TrainingArguments and of PrefixConfig."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from ..config import DTYPES
from ..metrics import FUNCTIONS, PROTOCOLS
from .decoding import DecodingArguments
from .option import check_counts, check_ranges, option

TOO_LONG = ("cut", "drop", "refuse")
OBJECTIVES = ("token_mean", "sentence_sum")


@dataclass
class BaseArguments:
    """Which base model, and how many bits its weights have."""

    model: str = field(metadata={"help": "The base model: a directory or the id of a Hub repository."})
    dtype: str = field(
        default="float32", kw_only=True, metadata={"help": "Of the base model's weights.", "choices": list(DTYPES)}
    )
    load_in_8bit: bool = field(
        default=False, kw_only=True, metadata={"help": "Keep the base model's weights in 8 bits (needs bitsandbytes)."}
    )
    load_in_4bit: bool = field(
        default=False, kw_only=True, metadata={"help": "Keep them in 4 bits, as NormalFloat (needs bitsandbytes)."}
    )

    @property
    def bits(self) -> int | None:
        """Of each weight of the base model's linear maps; None where they are not quantised.

        Raises:
            ValueError: both were asked for.
        """
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("--load-in-8bit and --load-in-4bit do not go together; leave one of the two out.")
        return 8 if self.load_in_8bit else 4 if self.load_in_4bit else None


@dataclass
class DataArguments(BaseArguments):
    """Which base model, which data, and how a record becomes tokens."""

    task: str | None = option(
        None, "A data set by name: webnlg, e2e, dart, xsum or scitldr. From the Hub (needs prefix-peft[hub]), or:"
    )
    data_dir: str | None = option(None, "The folder that holds webnlg/, e2e/, dart/, xsum/ or scitldr/.")
    separator: str | None = option(
        None, "What stands between source and target for a causal model. Default: the paper's, ' {bos}'."
    )
    max_source_length: int | None = option(None, "Cut sources to this many tokens. Default: what the model can read.")
    max_target_length: int | None = option(None, "Cut targets to this many tokens. Default: what the model can read.")

    def check_task(self) -> None:
        """A folder needs a task, and a task without a folder the library that asks the Hub for it.

        Raises:
            ImportError: it is not installed.
        """
        if self.data_dir is not None and self.task is None:
            raise ValueError(f"--data-dir {self.data_dir} holds tasks; say which: --task NAME.")
        if self.task is not None and self.data_dir is None and find_spec("datasets") is None:
            raise ImportError(
                f"--task {self.task} without --data-dir is loaded from the Hub: pip install prefix-peft[hub], or give "
                "--data-dir DIR."
            )


@dataclass
class RunArguments:
    """How a prefix is trained: steps, batches and learning rate, and what is written when."""

    output_dir: str = field(default="", metadata={"help": "Where the prefix, its card, log and checkpoints go."})
    learning_rate: float | None = option(
        None, "Default: 0.2 for a flat prefix, 5e-2 with --no-scale-parameter, 1e-3 with --prefix-projection."
    )
    objective: str = option(
        "token_mean",
        "What a step lowers: the mean over its target tokens; or, as in the paper's code, the sum over each sentence's "
        "target tokens, and of that the mean over its sentences.",
        choices=list(OBJECTIVES),
    )
    num_train_epochs: float = option(3.0, "How often each example is seen.")
    max_steps: int = option(-1, "Optimizer steps; takes the place of --num-train-epochs where positive.")
    per_device_train_batch_size: int = option(8, "Examples in one forward pass.")
    per_device_eval_batch_size: int = option(16, "The same for the validation loss.")
    gradient_accumulation_steps: int = option(1, "Forward passes to one optimizer step.")
    group_by_length: bool = option(False, "Batches of like lengths: less padding, so faster; a less random order.")
    warmup_ratio: float = option(0.05, "Share of the steps over which the learning rate rises; then it falls to 0.")
    weight_decay: float = option(0.0, "AdamW's weight decay.")
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.")
    mixed_precision: str | None = option(
        None, "no, bf16 or fp16. Default: what `accelerate launch` says, else no.", choices=["no", "bf16", "fp16"]
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass: less memory, more time.")
    save_steps: int = option(0, "Write a checkpoint every this many steps; 0 for none but the end.")
    save_total_limit: int | None = option(
        None, "Keep only so many checkpoints, the latest; an older one goes when the new one is safe. Default: all."
    )
    skip_nonfinite_steps: int = option(
        0, "Skip so many steps in a row whose loss or gradient is not finite; at one more the run stops."
    )
    eval_steps: int = option(0, "Measure the validation loss every this many steps; 0 for once an epoch.")
    logging_steps: int = option(10, "Steps between two lines of the log.")
    seed: int = option(42, "Fixes the start of the prefix and the order of the data.")
    resume_from_checkpoint: str | None = option(
        None,
        "A checkpoint directory, or 'last' (which may be left out): continue as if the run had never stopped. Where "
        "there is no 'last' one yet the run starts anew.",
    )

    def check_run(self) -> None:
        """Refuse runs that cannot be."""
        if not self.output_dir:
            raise ValueError("say where the prefix goes: --output-dir DIR.")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"--objective must be one of {list(OBJECTIVES)}, got {self.objective!r}.")
        check_counts(self, "per_device_train_batch_size", "gradient_accumulation_steps", "logging_steps")
        check_counts(self, "per_device_eval_batch_size", "num_virtual_tokens")
        check_ranges(self)
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError(f"nothing to train: max_steps={self.max_steps}, num_train_epochs={self.num_train_epochs}.")


def check_output_file(path: str | None) -> None:
    """Refuse a directory, before the work whose result would go there."""
    if path and Path(path).is_dir():
        raise ValueError(f"--output-file {path} is a directory; name a file.")


@dataclass
class TrainArguments(RunArguments, DataArguments):
    """prefix-peft train: train a prefix for a frozen model."""

    train_file: str | None = option(
        None, 'JSON lines: {"source": str, "target": str} or {"source", "references": [...]}.'
    )
    validation_file: str | None = option(None, "JSON lines on which the loss is measured before, during and after.")
    too_long: str = option(
        "cut", "Pairs longer than the model reads: cut them, drop them, or refuse to train.", choices=list(TOO_LONG)
    )
    num_virtual_tokens: int = option(20, "P: the length of the prefix.")
    prefix_projection: bool = option(False, "Train through the paper's MLP, which the release folds away.")
    encoder_hidden_size: int = option(512, "Width of that MLP.")
    scale_parameter: bool = option(
        True,
        "A flat prefix's virtual tokens train in units of their own size, so that one learning rate suits them all.",
    )
    prefix_dropout: float = option(0.0, "Dropout on the prefix while training.")
    base_dropout: bool = option(False, "Leave the frozen model's own dropout on; the paper's code has it off.")
    num_frozen_tokens: int = option(0, "The first so many virtual tokens keep their start, as attention sinks.")
    gate: bool = option(False, "Start exactly at the base model: a gate on the prefix's mass, from 0.")
    init_text: str | None = option(None, "Start from the activations of these words. Default: random tokens.")
    init_examples: bool = option(
        False, "Start from those of training pairs, as many as fit into P: the longer the prefix, the more they help."
    )

    def __post_init__(self) -> None:
        self.check_task()
        self.check_run()
        if (self.train_file is None) == (self.task is None):
            raise ValueError("give the data once: --train-file F.jsonl, or --task NAME [--data-dir DIR].")
        if self.too_long not in TOO_LONG:
            raise ValueError(f"--too-long must be one of {list(TOO_LONG)}, got {self.too_long!r}.")
        if self.init_examples and self.init_text is not None:
            raise ValueError(
                f"the prefix starts from one thing: --init-text {self.init_text!r}, or the training pairs "
                "(--init-examples). Leave one of the two out."
            )
        if self.prefix_projection:
            self.scale_parameter: bool = False  # an MLP has no such units
        if self.learning_rate is None:
            self.learning_rate: float | None = 1e-3 if self.prefix_projection else 0.2 if self.scale_parameter else 5e-2


@dataclass
class DocumentArguments(BaseArguments):
    """Which document, and which texts are written behind it. The base model is a causal one."""

    document_file: str = field(metadata={"help": "The document, plain text. It and a text must fit into the context."})
    prompts_file: str | None = option(
        None, "One prompt a line, of the kind that will be asked. Default: pieces of the document."
    )
    prompt_length: int = option(16, "Tokens of such a piece.")
    max_new_tokens: int = option(64, "Tokens that the model writes behind each prompt, with the document in view.")
    temperature: float = option(1.0, "Of that writing: below 1 the likelier words, above 1 more of a variety.")
    num_samples: int = option(512, "Texts to train on.")
    num_validation_samples: int = option(64, "Texts on which the divergence is measured before, during and after.")


@dataclass
class DistillArguments(RunArguments, DocumentArguments):
    """prefix-peft distill: a short prefix that does what a long document in view does.

    The frozen model reads the document once and writes texts behind it. A short prefix is then trained until the model
    behind it predicts these texts as it did behind the whole document: the divergence KL(document || prefix) of its
    next-token distributions falls, token by token. No answers, labels or other model are needed.

    It is context distillation (Snell et al. 2022, arXiv:2209.15189) into trained keys and values over texts of the
    model's own, as in Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266).

      prefix-peft distill  --model gpt2-medium --document-file manual.txt --num-virtual-tokens 32 --output-dir manual
      prefix-peft generate --model gpt2-medium --adapter manual --prompt "To change the filter,"

    What to turn first: more --num-samples (they are what the prefix learns of the document), then more virtual tokens.
    Give --prompts-file if you know what will be asked.
    """

    num_virtual_tokens: int = option(32, "P: the length of the prefix, which starts as the document's first tokens.")
    num_frozen_tokens: int = option(1, "The first so many virtual tokens keep their start, as attention sinks.")
    learning_rate: float = option(1e-1, "At its peak.")
    separator: ClassVar[str] = ""  # nothing parts a prompt from what follows
    objective: str = field(default="token_mean", init=False)  # texts end where they were cut off: none is a sentence

    def __post_init__(self) -> None:
        self.check_run()
        check_counts(self, "prompt_length", "max_new_tokens", "num_samples", "num_validation_samples")
        if not self.temperature > 0:
            raise ValueError(f"--temperature must be above 0, got {self.temperature}.")


@dataclass
class MetricArguments:
    """By what texts are judged."""

    protocol: str = option(
        "plain", "As whose official scripts texts and references are read; plain is sacrebleu.", choices=list(PROTOCOLS)
    )
    metrics: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Further metrics, of the texts as they are: {', '.join(FUNCTIONS)}; the Python file of an "
            "evaluate.Metric; or a name for evaluate.load.",
        },
    )


@dataclass
class ScoreArguments(MetricArguments):
    """prefix-peft score: how good texts are, whatever system wrote them."""

    predictions: str | None = option(None, "The texts, one a line.")
    references: str | None = option(None, 'JSON lines, one for each text: {"references": [...]}.')
    output_file: str | None = option(None, "Write the scores here as JSON.")

    def __post_init__(self) -> None:
        if self.predictions is None or self.references is None:
            raise ValueError("give both files: --predictions F.txt --references R.jsonl.")
        check_output_file(self.output_file)


@dataclass
class EvaluateArguments(DecodingArguments, MetricArguments, DataArguments):
    """prefix-peft evaluate: loss and metrics of a prefix, beside the base model without it."""

    adapter: str = field(default="", metadata={"help": "The directory or the id of the trained prefix."})
    data_file: str | None = option(None, "JSON lines with references.")
    split: str = option("test", "Which split of --task.")
    num_beams: int = field(default=5, kw_only=True, metadata={"help": "Beams of the search, 5 as in the paper."})
    per_device_eval_batch_size: int = option(16, "Rows generated at once.")
    max_samples: int | None = option(None, "Only the first so many records.")
    without_prefix: bool = option(False, "Score the base model alone as well.")
    card: bool = option(False, "Put the scores, and what it writes, into the model card of the prefix as well.")
    output_file: str | None = option(None, "Write scores, settings and every generation here as JSON.")

    def __post_init__(self) -> None:
        self.check_task()
        self.check_decoding()
        check_counts(self, "per_device_eval_batch_size")
        if (self.data_file is None) == (self.task is None):
            raise ValueError("give the data once: --data-file F.jsonl, or --task NAME [--data-dir DIR].")
        check_output_file(self.output_file)
        if self.card and not Path(self.adapter, "README.md").is_file():
            raise ValueError(
                f"--card writes into {self.adapter}/README.md, and there is none; name a directory with one."
            )


@dataclass
class GenerateArguments(DecodingArguments, BaseArguments):
    """prefix-peft generate: what a model with a prefix writes for a prompt."""

    adapter: str = field(metadata={"help": "The directory or the id of the trained prefix."})
    prompt: str | None = option(None, "One source.")
    input_file: str | None = option(None, "One source a line.")
    separator: str | None = option(None, "As in training. Default: what the prefix was trained with.")
    per_device_eval_batch_size: int = option(16, "Rows generated at once.")

    def __post_init__(self) -> None:
        self.check_decoding()
        check_counts(self, "per_device_eval_batch_size")
        if (self.prompt is None) == (self.input_file is None):
            raise ValueError("give the source once: --prompt TEXT or --input-file F.")
