"""Attention that is told where to look, by which copying is learned within minutes.

Copying takes two heads, one above the other (Olsson et al. 2022, "In-context Learning and Induction Heads"): one that
looks at the token before, and one that finds the place whose token before is the present one. Gradients find the pair
late, for neither is of use alone. So a few heads of some layers get a loss of their own, as attention is supervised by
word alignments in translation (Liu et al. 2016): the first kind to look one place back, the second to look at the
source's tokens that equal the next one of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from prefix_peft.data.batches import IGNORED

from .batches import Batch

HEADS = 2  # guided ones of a layer
LEAST = 1e-6  # of attention, so that its logarithm is finite


@dataclass(frozen=True)
class Guide:
    """The layers whose first heads are guided, and for every token the number of its word form."""

    forms: Tensor  # (V,); equal where only case and a space before differ, -1 for what has no letter and no digit
    back: tuple[int, ...]  # layers that look one place back: the encoder's, or the decoder's
    copy: tuple[int, ...]  # layers that look at what comes next: in cross-attention, or in self-attention

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Guide:
        """For this model; its attention must be eager, the only kind that tells its weights."""
        texts = tokenizer.batch_decode([[token] for token in range(model.config.vocab_size)])
        known: dict[str, int] = {}
        forms = [
            known.setdefault(text.strip().lower(), len(known)) if any(map(str.isalnum, text)) else -1 for text in texts
        ]
        for special in tokenizer.all_special_ids:
            forms[special] = -1
        middle = model.config.num_hidden_layers // 2
        return cls(torch.tensor(forms), tuple(sorted({middle // 4, middle // 4 - 1} - {-1})), (middle, middle + 1))

    def loss(self, outputs: ModelOutput, batch: Batch, is_encoder_decoder: bool) -> Tensor:
        """The mean of -log(attention on the right places), over heads, layers and places, of both kinds."""
        if is_encoder_decoder:
            backward, forward = outputs["encoder_attentions"], outputs["cross_attentions"]
            next_token, read = batch["labels"], batch["attention_mask"].bool()
            right = self._equal(next_token, batch["input_ids"]) & read[:, None]
        else:
            backward, forward = outputs["attentions"], outputs["attentions"]
            next_token = batch["labels"].roll(-1, 1)
            next_token[:, -1] = IGNORED
            source = (batch["labels"] == IGNORED) & batch["attention_mask"].bool()
            right = (self._equal(next_token, batch["input_ids"]) & source[:, None]).tril()
        before = batch["attention_mask"].bool()[:, :, None] & _one_back(batch["input_ids"].shape[1])
        return _mean([backward[i] for i in self.back], before) + _mean([forward[i] for i in self.copy], right)

    def _equal(self, next_token: Tensor, tokens: Tensor) -> Tensor:
        """(B, T, S): where a token of the source is the next one of the target."""
        wanted = torch.where(next_token == IGNORED, -1, self.forms[next_token.clamp_min(0)])
        return (wanted[:, :, None] == self.forms[tokens][:, None]) & (wanted >= 0)[:, :, None]


def _one_back(length: int) -> Tensor:
    """(S, S): True one place before the query."""
    return torch.ones(length, length, dtype=torch.bool).tril(-1).triu(-1)


def _mean(attentions: list[Tensor], right: Tensor) -> Tensor:
    """-log of the attention (B, H, T, S) on the right places (B, T, S), where there are any."""
    asked = right.any(-1)
    losses = []
    for attention in attentions:
        weight = (attention[:, :HEADS].float() * right[:, None]).sum(-1)
        losses.append(-weight.transpose(1, 2)[asked].clamp_min(LEAST).log().mean())
    return torch.stack(losses).nan_to_num().mean()
