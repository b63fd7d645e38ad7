"""How texts are searched for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .option import check_counts, check_ranges, option


@dataclass(kw_only=True)
class DecodingArguments:
    """How texts are searched for, by the names of transformers' GenerationConfig."""

    num_beams: int = option(1, "Beams of the search; 1 is greedy.")
    max_new_tokens: int = option(100, "Longest generation.")
    length_penalty: float | None = option(
        None, "Beams are ranked by log-likelihood / length ** this. Default: the model's own, mostly 1.0."
    )
    min_new_tokens: int | None = option(None, "Shortest generation. Default: the model's own.")
    no_repeat_ngram_size: int | None = option(
        None, "No run of so many tokens occurs twice; 0: any may. Default: the model's own."
    )

    def check_decoding(self) -> None:
        """Refuse what no search can do."""
        check_counts(self, "num_beams", "max_new_tokens")
        check_ranges(self)
        if self.length_penalty is not None and self.num_beams == 1:
            raise ValueError(f"--length-penalty {self.length_penalty} weighs beams; give --num-beams 2 or more.")
        if (self.min_new_tokens or 0) > self.max_new_tokens:
            raise ValueError(
                f"--min-new-tokens {self.min_new_tokens} is more than --max-new-tokens {self.max_new_tokens}; raise it."
            )

    def decoding(self) -> dict[str, Any]:
        """The options for ``generate`` that were given."""
        names = ("num_beams", "max_new_tokens", "length_penalty", "min_new_tokens", "no_repeat_ngram_size")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
