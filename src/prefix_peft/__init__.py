"""Prefix-tuning for any HuggingFace causal or encoder-decoder model, as a PEFT method.

``import prefix_peft`` registers the method; from then on PEFT and transformers treat a ``PrefixConfig`` as they treat
LoRA's config.
"""

from .config import PrefixConfig as PrefixConfig
from .initialize import initialize_kv_prefix_from_text as initialize_kv_prefix_from_text
from .initialize import initialize_kv_prefix_from_tokens as initialize_kv_prefix_from_tokens
from .inspecting import inspect as inspect
from .model import PrefixModel as PrefixModel
from .plugin import register
from .wrap import wrap as wrap

__version__ = "0.1.0"

register()
