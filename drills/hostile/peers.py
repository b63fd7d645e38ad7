"""The same changes to a release of PEFT's own prefix tuning, and what PEFT does with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import peft
from safetensors import SafetensorError

from . import tensors, texts
from .dice import Dice
from .judge import REFUSALS
from .releases import CONFIG, WEIGHTS
from .subject import Look, P, base_model, content, fill, parsed

LIKELY = {
    "num_virtual_tokens": [1, 3, 4, 10**12, "3", 3.0, True], "num_layers": [1, 2, 0, -1, 10**12, "1", None],
    "num_attention_heads": [1, 2, 10**12, 0], "token_dim": [6, 12, 13, 10**12, "6", None],
    "num_transformer_submodules": [1, 2, None], "prefix_projection": [False, True, 1],
    "encoder_hidden_size": [6, 10**12, None], "task_type": ["CAUSAL_LM", None, "SEQ_CLS", "POETRY"],
    "auto_mapping": [None, {"base_model_class": "system", "parent_library": "os"}, 5],
    "inference_mode": [True, False, "x"], "peft_type": ["PREFIX_TUNING", "", 5, None], "revision": [None, 5],
    "modules_to_save": [None, ["lm_head"], 5],
}  # fmt: skip


class Peer:
    """PEFT's prefix tuning, which is asked to load what is wrong with a release of its own."""

    def __init__(self, directory: Path, file: str) -> None:
        self.directory, self.file = directory, file
        self._renew()
        self.model.save_pretrained(directory)
        self.whole = content(directory, CONFIG, WEIGHTS)

    def _renew(self) -> None:
        config = peft.PrefixTuningConfig(num_virtual_tokens=P, task_type="CAUSAL_LM")
        self.model: Any = peft.get_peft_model(base_model(), config).eval()
        fill(self.model, "prompt_encoder")
        self.look = Look(self.model)

    def said(self, cases: list[Dice]) -> str:
        """What it did, counted."""
        found = Counter(self._try(dice) for dice in cases)
        order = ["taken rightly", "taken wrongly", "refused", "refused and the model changed", "another error"]
        counts = ", ".join(f"{found[kind]} {kind}" for kind in order if found[kind])
        return f"of {len(cases):,}: {counts}"

    def _try(self, dice: Dice) -> str:
        config, weights = self.whole
        if self.file == CONFIG:
            config = texts.as_file(dice, texts.changed(dice, parsed(config), LIKELY))
        else:
            weights = tensors.changed(dice, weights)
        (self.directory / CONFIG).write_bytes(config)
        (self.directory / WEIGHTS).write_bytes(weights)
        try:
            self.model.load_adapter(self.directory, "new")
            return "taken rightly" if self._is_right(weights) else "taken wrongly"
        except (*REFUSALS, KeyError, SafetensorError):
            kind = "refused"
        except Exception:
            kind = "another error"
        finally:
            changed = bool(self.look.changed(False))
            if changed:
                self._renew()
        return f"{kind} and the model changed" if kind == "refused" and changed else kind

    def _is_right(self, weights: bytes) -> bool:
        try:
            theirs = tensors.read(weights)["prompt_embeddings"].astype("<f4")
            ours = self.model.prompt_encoder["new"].embedding.weight.detach().numpy()
            return np.array_equal(ours, theirs) and bool(np.isfinite(ours).all())
        except Exception:
            return False
