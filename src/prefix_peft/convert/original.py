"""The paper's code (Li & Liang 2021): an embedding and an MLP for each kind of attention, saved whole.

GPT-2 gets the result as a cache, so its text begins at P. BART's encoder, decoder and cross-attention see it beside the
text, which stays where it was. Nothing is written: that code has no way to take a folded prefix.
"""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from ..anatomy.trial import is_encoder_decoder
from ..one_pass import KeysValues
from .content import Content, common_shape, from_rows, own_role, sites_of
from .folding import fold
from .formats import Format, Source, register_format

ROLES = {"decoder": ("wte", "control_trans"), "encoder": ("wte_enc", "control_trans_enc"),
         "cross": ("wte2", "control_trans2")}  # fmt: skip


@register_format("original")
class Original(Format):
    """The state of ``PrefixTuning``, or of it without the MLP ("shallow")."""

    is_written = False

    def recognises(self, source: Source) -> bool:
        """By the names of its modules."""
        return bool({"control_trans", "control_trans.0.weight", "control_trans_enc.0.weight"} & source.names)

    def read(self, source: Source, model: PreTrainedModel, notes: list[str]) -> Content:
        """The MLPs, folded."""
        if "wte2.weight" in source.names and "control_trans2.0.weight" not in source.names:
            raise ValueError(f"{source.file} is an infix: it stands behind the source, where no prefix can.")
        if "control_trans" in source.names:
            return Content(_shallow(source, model), behind=True)
        two, parts = is_encoder_decoder(model), KeysValues()
        if not two and {f"{maps}.0.weight" for _, maps in (ROLES["encoder"], ROLES["cross"])} & source.names:
            raise ValueError(f"{source.file} is for an encoder-decoder, which {type(model).__name__} is not.")
        for role, (embedding, maps) in ROLES.items():
            if f"{maps}.0.weight" in source.names:
                rows = fold(source, embedding, maps)
                parts |= from_rows(rows, sites_of(model, role), f"{maps} in {source.file}")
        return Content(parts, behind=not two)


def _shallow(source: Source, model: PreTrainedModel) -> KeysValues:
    """One parameter (P 2 L G D,), or as a cache gave it (2 L, 1, G, P, D)."""
    held: Tensor = source.tensors("control_trans")["control_trans"]
    sites, where = sites_of(model, own_role(model)), f"control_trans in {source.file}"
    heads, dim = common_shape(sites, where)
    if held.dim() == 5:
        held = held[:, 0].permute(2, 0, 1, 3).reshape(held.shape[3], -1)
    width = 2 * len(sites) * heads * dim
    return from_rows(held.reshape(-1, width) if held.numel() % width == 0 else held, sites, where)
