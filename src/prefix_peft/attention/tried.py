"""Whether torch's attention kernels do here what `merged` asks of them: they are tried once, on a few numbers."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from .kernels import DTYPES
from .merged import SHORT, Merged, Over, Part

logger: logging.Logger = logging.getLogger(__name__)

_tried: dict[tuple[str, torch.dtype], str] = {}  # by device and dtype: why the kernels are not to be relied on, or ''


def try_kernels(device: str, dtype: torch.dtype) -> str:
    """Why the kernels are not to be relied on for this type of device and dtype, or ''; tried once in a process."""
    kind = device, dtype
    if kind not in _tried and dtype in DTYPES.get(device, ()) and not is_compiling():
        try:
            with ThreadPoolExecutor(1) as aside:  # where no hook, mode or checkpoint of this thread sees it
                aside.submit(_try_out, torch.empty(0, device=device, dtype=dtype)).result()
            _tried[kind] = ""
        except Exception as error:
            _tried[kind] = f"torch's kernels for {dtype} on {device} failed a trial: {error}"
            logger.warning("%s. The prefix is joined to the text instead, which is slower.", _tried[kind])
    return _tried.get(kind, "the kernels have not been tried yet, and code that is compiled cannot do it")


def _try_out(like: Tensor) -> None:
    """Raise where kernels and plain arithmetic disagree, in the attention or a gradient."""
    for length in (3, SHORT + 1):
        _try_out_behind(length, like)


def _try_out_behind(length: int, like: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 5, 16), *[(2, 2, 5, 16)] * 2, *[(1, 2, length, 16)] * 2]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors = [tensor.to(like).requires_grad_() for tensor in tensors]
    mask = torch.ones(5, 5, dtype=torch.bool, device=like.device).tril()
    mask = torch.zeros(5, 5, device=like.device, dtype=like.dtype).masked_fill(~mask, torch.finfo(like.dtype).min)
    for over in (Over(causal=True), Over(mask.expand(2, 1, 5, 5))):
        out = Merged.apply(over, [Part(None, Over())], *tensors)
        plain = _plain([tensor.double() for tensor in tensors], mask.double())
        close = partial(torch.testing.assert_close, rtol=0.0, atol=32 * torch.finfo(like.dtype).eps)
        close(out.double(), plain)
        weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
        ours, theirs = (torch.autograd.grad((result * weights).sum(), tensors) for result in (out, plain))
        for our, their in zip(ours, theirs, strict=True):
            close(our, their)


def _plain(tensors: list[Tensor], mask: Tensor) -> Tensor:
    """softmax(q [P_K; K]) [P_V; V], heads in groups."""
    query, key, value, p_key, p_value = tensors
    key, value = (
        torch.cat([p.expand(len(query), -1, -1, -1), own], dim=2).repeat_interleave(2, dim=1)
        for p, own in ((p_key, key), (p_value, value))
    )
    scores = query @ key.mT / query.shape[-1] ** 0.5 + F.pad(mask, (p_key.shape[2], 0))
    return scores.softmax(-1) @ value
