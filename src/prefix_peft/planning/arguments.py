"""What can be asked of ``prefix-peft inspect``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..training.arguments import BaseArguments, check_counts
from .request import Request
from .sharding import SHARDED, STRATEGIES

GIB = 2**30
OF_ANY = ("model", "dtype", "load_in_8bit", "load_in_4bit", "adapter", "plan")  # the others belong to a plan


def _option(default: Any, text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class InspectArguments(BaseArguments):
    """prefix-peft inspect: the places of a model where a prefix goes, what is there, and how it attends.

    With --plan: what memory training and decoding take, in several ways. The model's config is read and nothing else,
    so a model of any size can be planned for anywhere, and --model may be a JSON file of a config.

      prefix-peft inspect --model gpt2-medium
      prefix-peft inspect --model config.json --plan --dtype bfloat16 --batch-size 4 --device-memory 24
      prefix-peft inspect --model config.json --plan --dtype bfloat16 --num-processes 8 --device-memory 80
    """

    adapter: str | None = _option(None, "A trained prefix: a directory or an id. Default: a new one of 20 tokens.")
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
            return
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
