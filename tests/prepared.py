"""The experiments' methods on tiny models, for the tests of them."""

import sys
from dataclasses import replace
from pathlib import Path

import tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.methods import METHODS, Settings

SETTINGS = Settings(num_virtual_tokens=3, encoder_hidden_size=7, bottleneck=5, rank=2, latent_size=5, memory_rank=2)
FAMILIES = ("gpt2", "bart")


def served(names):
    """Each method with each of the families that it serves."""
    return [
        (name, family) for name in names for family in FAMILIES if (name, family) != ("peft_adaption_prompt", "bart")
    ]


def prepared(name, family="gpt2", **changes):
    """A method's model, with ``SETTINGS`` but for ``changes``."""
    return METHODS[name].prepare(tiny.build(family), replace(SETTINGS, **changes)).eval()
