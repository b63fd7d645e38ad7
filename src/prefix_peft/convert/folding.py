"""The MLPs of other libraries, folded into the rows that they make."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import Source


def fold(source: Source, embedding: str, maps: str, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """What ``embedding.weight`` (P, m) becomes by the linear maps ``maps.0``, ``maps.2``, ... : rows (P, n).

    Raises:
        ValueError: a map that is missing or does not fit behind the one before.
    """
    tensors = source.tensors(f"{embedding}.weight", f"{maps}.")
    if f"{embedding}.weight" not in tensors:
        raise ValueError(f"{source.file} lacks {embedding}.weight.")
    rows = tensors[f"{embedding}.weight"].float()
    numbers = sorted({int(n) for name in tensors for n in re.findall(rf"^{re.escape(maps)}\.(\d+)\.weight$", name)})
    for turn, number in enumerate(numbers):
        weight, bias = tensors[f"{maps}.{number}.weight"], tensors.get(f"{maps}.{number}.bias")
        if rows.dim() != 2 or weight.dim() != 2 or weight.shape[1] != rows.shape[1] or bias is None:
            raise ValueError(
                f"{maps}.{number} in {source.file} is {tuple(weight.shape)} and gets {tuple(rows.shape)}; its MLP is "
                "not a chain of linear maps with biases."
            )
        rows = F.linear(activation(rows) if turn else rows, weight.float(), bias.float())
    return rows
