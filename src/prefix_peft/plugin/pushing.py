"""``model.push_to_hub`` for a model with prefixes.

transformers' own would put its card for whole models over PEFT's, and PEFT's config would name a directory of this
machine as the base model where it was loaded from one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ..config import PrefixConfig
from ..gathering import is_held_in_parts

HOW = 'model.peft_config["{}"].base_model_name_or_path = "gpt2-medium"'


def push_model(original: Callable, model: Any, *args: Any, **kwargs: Any) -> Any:
    """For ``PushToHubMixin.push_to_hub``: what `prefix_peft.publishing` pushes, looks at and refuses, in one commit."""
    return (_push if _has_prefixes_alone(model) else original)(model, *args, **kwargs)


def _has_prefixes_alone(model: Any) -> bool:
    configs = getattr(model, "peft_config", None) if isinstance(model, (PeftModel, PreTrainedModel)) else None
    return bool(configs) and all(isinstance(config, PrefixConfig) for config in configs.values())


def _push(model: Any, repo_id: str, *, tags: Any = None, max_shard_size: Any = None, **commit: Any) -> Any:
    """Save, then push; ``max_shard_size`` is for weights that are larger than a prefix."""
    from ..publishing.push import push_parts
    from ..publishing.target import Options, Target

    target = Target(repo_id, **commit)
    tags = [tags] if isinstance(tags, str) else tags or ()
    names = sorted(model.peft_config, key="default".__ne__) if isinstance(model, PeftModel) else ["default"]
    with TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        if is_held_in_parts(model) and torch.distributed.get_rank() != 0:
            return None
        home, options = Path(directory), Options(tags=tags, how=HOW.format(next(iter(model.peft_config))))
        parts = {folder: home / folder for folder in ("" if name == "default" else name for name in names)}
        return push_parts(parts, home, target, options).commit
