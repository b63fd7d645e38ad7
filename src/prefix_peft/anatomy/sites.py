"""The sites: which modules of a model attend, and where it gets its positions from.

No table of families and no arithmetic on configs: grouped and multi-query heads, keys and values of different widths,
layers of different shape and cross-attention come out right because they are seen (`watching`), not computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from .lookups import LookUp


@dataclass(frozen=True)
class Site:
    """One attention module as it was seen when called. ``role`` is 'encoder', 'decoder' or 'cross'."""

    name: str
    role: str
    num_key_value_heads: int  # G
    key_dim: int  # D_k
    value_dim: int  # D_v, of all turns together
    by_hand: bool = False  # it computes its attention itself, instead of passing transformers' interface
    key_bias: bool = False  # by hand, with a bias to each key (ALiBi)
    turns: int = 1  # calls in one forward to the same keys, each with values of its own, which lie side by side
    sees_encoder: bool = False  # one softmax over a decoder's text and, behind it, what its encoder read
    look_up: LookUp | None = None  # of positions, where the attention module does that itself


@dataclass(frozen=True)
class Anatomy:
    """What a model showed of itself."""

    sites: dict[str, Site]  # by module name
    positions: dict[str, list[LookUp]]  # by role, where positions are looked up in a table, if they are
    fingerprint: list[float]  # a few keys of a fixed token at a few sites: other weights, other numbers
    source_shape: tuple[int, ...] | None = None  # of what the encoder reads, where that is not tokens
    hears_of_positions: bool = False  # passes on position_ids that its forward does not name
