"""The one equation: attention over [P; sequence].

Axis letters mean one thing everywhere: B batch, H query heads, G key/value heads, P prefix, T queries, S keys of the
sequence, D head dim. The prefix comes in after rotary embedding and after the cache, so it has no position and is never
cached: h_i = P_theta[i, :] for i in P_idx (Li & Liang 2021, eq. 3), read at one attention layer.

Here are its terms; its two forms are in `joined` and `merged`, and the choice between them in `attend`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[..., tuple[Tensor, Tensor | None]]  # an attention function of transformers: eager, sdpa, flex


class Prefix(NamedTuple):
    """The prefix of one site for one call; B is 1 where all rows share it."""

    key: Tensor  # (B, G, P, D_k)
    value: Tensor  # (B, G, P, D_v)
    gate: Tensor | None = None  # (B, G, P): the share of each virtual token's mass that counts, None for all of it
    visible: Tensor | None = None  # (B, T or 1, P): False where a query does not see it, None for all True

    def at_turn(self, turn: int, turns: int) -> Prefix:
        """With the values (B, G, P, D_v) of one of ``turns`` calls, where those of all lie side by side."""
        return self._replace(value=self.value.chunk(turns, dim=-1)[turn])


class PrefixRows(NamedTuple):
    """Prefixes of one site, and which of them each row of the batch has."""

    prefixes: Sequence[Prefix]  # each with B = 1, of their own lengths
    choice: Sequence[int]  # one a row; -1 for none

    def at_turn(self, turn: int, turns: int) -> PrefixRows:
        """`Prefix.at_turn` for each."""
        return self._replace(prefixes=[prefix.at_turn(turn, turns) for prefix in self.prefixes])

    def dense(self) -> Prefix:
        """Each row's own, padded to the longest and hidden beyond its length."""
        parts = self.prefixes
        longest = max(part.key.shape[2] for part in parts)
        nothing = Prefix(torch.zeros_like(parts[0].key[:, :, :1]), torch.zeros_like(parts[0].value[:, :, :1]))
        padded = [*parts, nothing]
        key, value = (torch.cat([_pad(getattr(part, side), longest) for part in padded]) for side in ("key", "value"))
        gate = None
        if any(part.gate is not None for part in parts):
            gate = torch.cat([_pad(gate_of(part).unsqueeze(-1), longest) for part in padded]).squeeze(-1)
        lengths = torch.tensor([*(part.key.shape[2] for part in parts), 0], device=key.device)
        index = torch.tensor(self.choice, device=key.device)
        visible = torch.arange(longest, device=key.device) < lengths[index, None]
        return Prefix(key[index], value[index], None if gate is None else gate[index], visible[:, None])


class AttentionCall(NamedTuple):
    """What an attention module hands to the attention function of transformers that it was told to use."""

    attend: Attend
    implementation: str  # 'eager', 'sdpa', 'flex_attention', 'paged|eager'
    module: nn.Module
    query: Tensor  # (B, H, T, D_k)
    key: Tensor  # (B, G, S, D_k)
    value: Tensor  # (B, G, S, D_v)
    mask: Any  # None, boolean or additive (B or 1, H or 1, T, S), or a BlockMask
    options: dict[str, Any]  # scaling, dropout, sinks, softcap, ...

    def run(self) -> tuple[Tensor, Tensor | None]:
        """(B, T, H, D_v), and the attention weights where the function gives them."""
        return self.attend(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def is_causal(self) -> bool:
        """What sdpa means by no mask: everything, or causal from the top left (query t sees keys 0..t)."""
        causal = self.options.get("is_causal")
        causal = getattr(self.module, "is_causal", True) if causal is None else causal
        return self.mask is None and self.query.shape[2] > 1 and bool(causal)


def gate_of(part: Prefix) -> Tensor:
    """The gate (1, G, P), wide open where there is none."""
    return part.key.new_ones(part.key.shape[:3]) if part.gate is None else part.gate


def _pad(tensor: Tensor, length: int) -> Tensor:
    """(1, G, P, D) with zeros up to P = length."""
    return F.pad(tensor, (0, 0, 0, length - tensor.shape[2]))
