"""PrefixConfig: what may be asked for, and which requests make no sense."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from peft import PeftConfig, PeftType
from peft.utils import CONFIG_NAME

from .attention.attend import FORMS
from .card.files import explain_loading
from .values import check_count, check_expressions, check_types
from .whole import write_text

Shapes = dict[str, tuple[int, ...]]  # of tensors, by name

ROLES = ("encoder", "decoder", "cross")
POSITION_MODES = ("keep", "shift")
GATES = (False, True, "token")
DTYPES = ("float32", "bfloat16", "float16")
# What describes how a prefix is trained, not what it is: a release holds P alone, so these return to their defaults.
TRAINING_FIELDS = (
    "prefix_projection", "encoder_hidden_size", "scale_parameter", "prefix_dropout", "init_text",
    "tokenizer_name_or_path", "attention_form",
)  # fmt: skip


class _PeftTypeName(str):
    """A ``PeftType`` that is not a member of the enum, which is closed.

    What PEFT and transformers ask of a type is that it hashes like its name and has ``.name`` and ``.value``.
    """

    @property
    def name(self) -> str:
        return str(self)

    @property
    def value(self) -> str:
        return str(self)


PREFIX_KV = _PeftTypeName("PREFIX_KV")


@dataclass
class PrefixConfig(PeftConfig):
    """A trained prefix of keys and values to the left of the text, at every attention layer (Li & Liang, ACL 2021).

    Raises:
        ValueError: a value out of its range, an unknown name, or two requests that contradict each other.
        TypeError: a value of the wrong type.
    """

    num_virtual_tokens: int = field(
        default=20, metadata={"help": "P: how many keys and values every attention layer sees before the text."}
    )
    num_virtual_tokens_pattern: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "Another P for some sites: {regular expression on the module name: P}, first match wins."},
    )
    sites: list[str] | None = field(
        default=None,
        metadata={
            "help": "Which kinds of attention carry a prefix: 'encoder', 'decoder', 'cross'. None: all there are."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Only the attention modules with these name endings, or matching this expression. None: all."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "Never the attention modules with these name endings, or matching this expression."},
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Only the layers with these indices, counted from 0. None: all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "The name before the layer index, where layers_to_transform should look only there ('layers')."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules of the base model to train and save as well, such as a new head."}
    )
    prefix_projection: bool = field(
        default=False,
        metadata={"help": "Train P through an MLP (section 4.3 of the paper), which a release folds away."},
    )
    encoder_hidden_size: int = field(
        default=512, metadata={"help": "Width of that MLP and of its input: 512 for table-to-text, 800 for summaries."}
    )
    scale_parameter: bool = field(
        default=False,
        metadata={
            "help": "Train each virtual token in units of its own size (keys: an eighth of it), so that one learning "
            "rate suits all: 0.2."
        },
    )
    prefix_dropout: float = field(
        default=0.0, metadata={"help": "Dropout on the prefix's keys and values in training."}
    )
    gate: bool | str = field(
        default=False,
        metadata={
            "help": "Start exactly at the base model: a gate per key/value head on the prefix's mass, from 0. "
            "'token': a gate for each virtual token as well."
        },
    )
    num_frozen_tokens: int = field(
        default=0,
        metadata={"help": "The first so many virtual tokens keep the values they start with, as attention sinks."},
    )
    init_text: str | None = field(
        default=None,
        metadata={"help": "Start from the activations of these words, repeated or cut to P. None: of random tokens."},
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "The tokenizer for init_text. None: the base model's."}
    )
    position_mode: str = field(
        default="keep",
        metadata={
            "help": "'keep': text has the positions it had without a prefix. 'shift': learned positions begin at P."
        },
    )
    release_dtype: str = field(
        default="float32", metadata={"help": "In which precision a release is written: float32, bfloat16 or float16."}
    )
    attention_form: str = field(
        default="auto",
        metadata={
            "help": "'joined': keys beside the text's. 'merged': attended to apart, fast. 'auto': merged if possible."
        },
    )
    base_dropout: bool = field(
        default=False,
        metadata={"help": "Leave the frozen model's own dropout on while training; the paper's code has it off."},
    )
    base_fingerprint: list[float] | None = field(
        default=None,
        metadata={
            "help": "In a release: a few keys of the base model, by which another base is told. Written on saving."
        },
    )
    trained_with: dict[str, Any] | None = field(
        default=None, metadata={"help": "In a release: how the prefix was trained. Written on saving, never read."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type: PeftType | None = cast("PeftType", PREFIX_KV)
        self.file_shapes: Shapes | None = None  # what the file beside a loaded config declares
        self.filled_by_caller = False  # a new prefix need not be started then
        check_count("num_virtual_tokens", self.num_virtual_tokens)
        check_count("encoder_hidden_size", self.encoder_hidden_size)
        self._check_pattern()
        self._check_parts()
        check_types(self)
        self._check_expressions()
        self._check_sites()
        if not 0.0 <= self.prefix_dropout < 1.0:
            raise ValueError(f"prefix_dropout must be at least 0 and below 1, got {self.prefix_dropout}.")
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"unknown position_mode {self.position_mode!r}; choose from {list(POSITION_MODES)}.")
        if self.attention_form not in FORMS:
            raise ValueError(f"unknown attention_form {self.attention_form!r}; choose from {list(FORMS)}.")
        if self.gate not in GATES:
            raise ValueError(f"unknown gate {self.gate!r}; choose from {list(GATES)}.")
        if self.release_dtype not in DTYPES:
            raise ValueError(f"unknown release_dtype {self.release_dtype!r}; choose from {list(DTYPES)}.")
        if self.position_mode == "shift" and self.num_virtual_tokens_pattern:
            raise ValueError(
                "position_mode='shift' moves the text by one number of tokens, but num_virtual_tokens_pattern asks for "
                f"several: {self.num_virtual_tokens_pattern}. Leave one of the two out."
            )
        if self.init_text is not None and not self.init_text.strip():
            raise ValueError(
                f"init_text needs at least one word, got {self.init_text!r}. Leave it out for random tokens."
            )
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform counts layers for a list of target_modules, got the expression "
                f"{self.target_modules!r}. Put the layer indices into the expression, or list name endings."
            )
        if self.layers_pattern is not None and self.layers_to_transform is None:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} says where to look for layers_to_transform; set both."
            )

    def _check_pattern(self) -> None:
        if not isinstance(self.num_virtual_tokens_pattern, dict):
            raise TypeError(
                f"num_virtual_tokens_pattern maps name patterns to lengths, got {self.num_virtual_tokens_pattern!r}."
            )
        for pattern, length in self.num_virtual_tokens_pattern.items():
            check_count(f"num_virtual_tokens_pattern[{pattern!r}]", length)

    def _check_expressions(self) -> None:
        check_expressions("num_virtual_tokens_pattern", list(self.num_virtual_tokens_pattern))
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), str):
                check_expressions(name, [value])
        layers = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or []
        check_expressions("layers_pattern", [rf".*\.{pattern}\.(\d+)\." for pattern in layers])  # as PEFT uses them

    def _check_parts(self) -> None:
        check_count("num_frozen_tokens", self.num_frozen_tokens, least=0)
        shortest = min([self.num_virtual_tokens, *self.num_virtual_tokens_pattern.values()])
        if self.num_frozen_tokens >= shortest:
            raise ValueError(
                f"num_frozen_tokens={self.num_frozen_tokens} leaves nothing to train of {shortest} virtual tokens; "
                "1 makes an attention sink."
            )
        if self.scale_parameter and self.prefix_projection:
            raise ValueError(
                "scale_parameter=True needs a flat prefix: with prefix_projection what trains are the weights of an "
                "MLP. Leave one of the two out."
            )
        if self.num_frozen_tokens and self.prefix_projection:
            raise ValueError(
                f"num_frozen_tokens={self.num_frozen_tokens} needs a flat prefix: with prefix_projection one MLP makes "
                "all virtual tokens, and none can stay as it is. Leave one of the two out."
            )

    def _check_sites(self) -> None:
        if self.sites is None:
            return
        self.sites = [self.sites] if isinstance(self.sites, str) else list(self.sites)
        unknown = [role for role in self.sites if role not in ROLES]
        if unknown or not self.sites:
            raise ValueError(f"sites must name some of {list(ROLES)}, got {self.sites}.")

    def length_at(self, site: str) -> int:
        """P at the attention module of this name."""
        for pattern, length in self.num_virtual_tokens_pattern.items():
            if re.search(pattern, site):
                return length
        return self.num_virtual_tokens

    def released(self) -> PrefixConfig:
        """The config of a release: P without the MLP and the start, which ``trained_with`` remembers."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self) if f.name in TRAINING_FIELDS}
        changed = {name: values[name] for name, default in defaults.items() if values[name] != default}
        if changed.get("prefix_projection") is None:
            changed.pop("encoder_hidden_size", None)
        return type(self)(**{**values, **defaults, "trained_with": changed or self.trained_with})

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the ``adapter_config.json`` of a release: it describes the folded P that lies beside it.

        A trainer may have left a model card there, which does not know that the method is a plugin.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as draft:
            super(PrefixConfig, self.released()).save_pretrained(draft, **kwargs)
            write_text(directory / CONFIG_NAME, Path(draft, CONFIG_NAME).read_text(encoding="utf-8"))
        explain_loading(directory, self.base_model_name_or_path, self.task_type)
