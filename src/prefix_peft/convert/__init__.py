"""Prefixes of other libraries, to a release and back: the same keys and values, and the same outputs, or a refusal.

A format is one small file here: it reads what a directory or a safetensors file holds, and writes the same. What they
all mean is a `Content`: keys and values at each site, and where the text behind them begins.
"""

from . import adapters, cartridges, kv_cache, original, p_tuning_v2, peft_files, release  # noqa: F401  (they register)
from .caches import from_cache as from_cache
from .caches import to_cache as to_cache
from .converting import Conversion as Conversion
from .converting import convert as convert
from .converting import load as load
from .formats import FORMATS as FORMATS
from .formats import Format as Format
from .formats import register_format as register_format
