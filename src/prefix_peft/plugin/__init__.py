"""All that touches PEFT's and transformers' own tables and functions.

PEFT 0.21 has no entry point for methods that live outside it, so this one is written into its tables under a type of
its own. Some of PEFT's functions, and the one of transformers that loads an adapter, are stood before as well, each for
what is said there; other methods notice nothing.
"""

# pyright: reportArgumentType=false
# (the types of another library's tables do not foresee what is written into them here)

from __future__ import annotations

from peft.config import PeftConfigMixin
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.peft_model import PeftModel
from transformers.integrations.peft import PeftAdapterMixin
from transformers.utils.hub import PushToHubMixin

from ..config import PREFIX_KV, PrefixConfig
from ..model import PrefixModel
from . import cards, loading, offloaded, pushing, saving, switching
from .standing import stand_before


def register() -> None:
    """Make PEFT and transformers treat a `PrefixConfig` as they treat LoRA's. Harmless to repeat."""
    PEFT_TYPE_TO_CONFIG_MAPPING[PREFIX_KV] = PrefixConfig
    PEFT_TYPE_TO_TUNER_MAPPING[PREFIX_KV] = PrefixModel
    PEFT_TYPE_TO_PREFIX_MAPPING[PREFIX_KV] = PrefixModel.prefix
    stand_before(PeftConfigMixin, "from_json_file", loading.read_config)
    stand_before(PeftConfigMixin, "from_pretrained", loading.load_config)
    stand_before(PeftModel, "from_pretrained", loading.load_model)
    stand_before(PeftModel, "from_pretrained", offloaded.load_model)
    stand_before(PeftModel, "load_adapter", loading.load_adapter)
    stand_before(PeftAdapterMixin, "load_adapter", loading.load_into_transformers)
    stand_before(PeftAdapterMixin, "load_adapter", offloaded.load_into_transformers)
    stand_before(PeftModel, "save_pretrained", saving.save_model)
    stand_before(PeftModel, "create_or_update_model_card", cards.write)
    stand_before(PushToHubMixin, "push_to_hub", pushing.push_model)
    stand_before(PeftModel, "set_adapter", switching.set_adapter)
