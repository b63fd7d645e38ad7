"""What can be asked of ``prefix-peft inspect``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from ..commands.arguments import BaseArguments, check_counts
from .request import Request
from .sharding import SHARDED, STRATEGIES

GIB = 2**30
INSIDE = ("compare", "text", "target", "separator", "words", "html", "png")  # these need an adapter
OF_A_MODEL = ("text", "target", "separator", "words")  # and these of them a model as well
OF_ANY = ("model", "dtype", "load_in_8bit", "load_in_4bit", "adapter", "plan", *INSIDE)  # the others belong to a plan


def _option(default: Any, text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name}" for name in names)


@dataclass
class InspectArguments(BaseArguments):
    """prefix-peft inspect: the places of a model where a prefix goes, what is there, and how it attends.

    With --adapter: what a trained prefix holds, for which no model is needed; with --model and --text as well, how much
    of the attention goes to it.

    With --plan: what memory training and decoding take, in several ways. The model's config is read and nothing else,
    so a model of any size can be planned for anywhere, and --model may be a JSON file of a config.

      prefix-peft inspect --model gpt2-medium
      prefix-peft inspect my-prefix --compare another-prefix
      prefix-peft inspect my-prefix --model gpt2-medium --text "name : Ada" --html ada.html --png ada.png
      prefix-peft inspect --model config.json --plan --dtype bfloat16 --batch-size 4 --device-memory 24
      prefix-peft inspect --model config.json --plan --dtype bfloat16 --num-processes 8 --device-memory 80
    """

    model: str = _option("", "The base model: a directory or the id of a Hub repository. Not needed beside --adapter.")
    adapter: str | None = _option(None, "A trained prefix: a directory or an id. Default: a new one of 20 tokens.")
    compare: str | None = _option(None, "Another trained prefix, to compare with that of --adapter.")
    text: str | None = _option(None, "A prompt, as for generate: how much attention its prefix gets. Needs --model.")
    target: str | None = _option(None, "What is written behind it, to see the attention there as well.")
    separator: str | None = _option(None, "What stands between the two, where it is not the one of the training.")
    words: int = _option(0, "So many nearest words of each virtual token, of the whole vocabulary. Needs --model.")
    html: str | None = _option(None, "Write what is shown to this page, a file that ends in .html.")
    png: str | None = _option(None, "Draw the heat maps to this picture, a file that ends in .png.")
    plan: bool = _option(False, "Say what memory it takes. What follows belongs to a plan.")
    num_virtual_tokens: int = _option(20, "P: the length of the prefix.")
    prefix_projection: bool = _option(False, "Train through the paper's MLP.")
    encoder_hidden_size: int = _option(512, "Width of that MLP.")
    batch_size: int = _option(8, "B: texts in one forward pass on one device.")
    sequence_length: int = _option(512, "T: tokens of the longest text; of the source, where there are two.")
    target_length: int | None = _option(None, "Tokens of an encoder-decoder's target. Default: as of its source.")
    max_new_tokens: int = _option(100, "Tokens that are written behind a text.")
    mixed_precision: str = _option("no", "no, bf16 or fp16.", choices=["no", "bf16", "fp16"])
    gradient_checkpointing: bool = _option(False, "Recompute activations in the backward pass.")
    num_processes: int = _option(1, "N: devices that train one prefix together.")
    strategy: str | None = _option(None, "How these share the model. Default: all ways.", choices=list(STRATEGIES))
    device_memory: float | None = _option(None, "GiB of one device: say what fits.")

    def __post_init__(self) -> None:
        if not self.plan:
            self._check_nothing_is_planned()
            self._check_inside()
            return
        for name in INSIDE:
            if getattr(self, name) not in (None, 0):
                raise ValueError(f"--{name} does not belong to a plan; leave it out.")
        if not self.model:
            raise ValueError("a plan is for a model; say --model.")
        if self.adapter is not None:
            raise ValueError(f"a plan needs no --adapter, got {self.adapter!r}; say --num-virtual-tokens instead.")
        check_counts(self, "num_processes")
        if self.strategy and self.num_processes == 1:
            raise ValueError(f"--strategy {self.strategy} is for several devices; say how many with --num-processes.")
        if self.strategy in SHARDED and self.bits:
            raise ValueError(
                f"--strategy {self.strategy} shares out weights of one dtype, which {self.bits}-bit ones are not; "
                "leave --load-in-... out, or choose ddp, where each device has all of them."
            )
        if self.device_memory is not None and not self.device_memory > 0:
            raise ValueError(f"--device-memory must be above 0 GiB, got {self.device_memory}.")
        self.request()

    def _check_nothing_is_planned(self) -> None:
        for option in fields(self):
            if option.name not in OF_ANY and getattr(self, option.name) != option.default:
                flag = f"--{option.name.replace('_', '-')}"
                raise ValueError(f"{flag} {getattr(self, option.name)} belongs to a plan; add --plan, or leave it out.")

    def _check_inside(self) -> None:
        """What looking inside a prefix needs."""
        if not self.model and self.adapter is None:
            raise ValueError("say which model (--model), or which trained prefix (--adapter), or both.")
        asked = {name: getattr(self, name) for name in INSIDE if getattr(self, name) not in (None, 0)}
        if asked and self.adapter is None:
            raise ValueError(f"{_flags(asked)} looks inside a trained prefix; say which one with --adapter.")
        if not self.model and (unmet := [name for name in OF_A_MODEL if name in asked]):
            raise ValueError(f"{_flags(unmet)} needs the base model as well; say --model.")
        if self.text is not None and not self.text.strip():
            raise ValueError(f"--text must have words, got {self.text!r}: attention is paid while a text is read.")
        if self.text is None and (unmet := [name for name in ("target", "separator") if name in asked]):
            raise ValueError(f"{_flags(unmet)} goes with a text; say --text.")
        if self.words < 0:
            raise ValueError(f"--words must be at least 0, got {self.words}.")
        for name in ("html", "png"):
            file = getattr(self, name)
            if file is not None and not file.lower().endswith(f".{name}"):
                raise ValueError(f"--{name} writes a file that ends in .{name}, got {file!r}.")

    @property
    def limit(self) -> int | None:
        """Bytes of one device."""
        return None if self.device_memory is None else int(self.device_memory * GIB)

    def request(self) -> Request:
        """What is asked of one device."""
        names = {option.name for option in fields(Request)} & {option.name for option in fields(self)}
        return Request(bits=self.bits, **{name: getattr(self, name) for name in names})

    def strategies(self) -> list[str]:
        """Those to compare."""
        if self.num_processes == 1:
            return []
        possible = [name for name in STRATEGIES if not (self.bits and name in SHARDED)]
        return [self.strategy] if self.strategy else possible
