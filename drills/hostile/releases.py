"""Releases: a mutated ``adapter_config.json`` or ``adapter_model.safetensors``, loaded in three ways."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import numpy as np
import peft
from torch import nn

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.layer import prefix_layers

from . import tensors, texts
from .dice import Dice
from .subject import Look, P, base_model, content, fill, parsed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LIKELY = {
    "num_virtual_tokens": [1, 3, 4, 10**12, "3", 3.0, True],
    "num_virtual_tokens_pattern": [{}, {"layers.0": 3}, {"(.+)+x": 3}, {"layers.1": 2}, {"(": 1}, {"a{9999999999}": 2}],
    "sites": [["decoder"], "decoder", [], ["encoder"], {"decoder": 1}],
    "target_modules": [None, ["self_attn"], "self_attn", r".*\.0\.self_attn", [], ["q_proj"], "(a|a)*", 7],
    "exclude_modules": [None, ["self_attn"], "x", r"(.*)\1"],
    "layers_to_transform": [None, 0, [0, 1], [5], "0", [-1]],
    "layers_pattern": [None, "layers", ["layers"], "("],
    "modules_to_save": [None, ["lm_head"], ["self_attn"], [], "lm_head"],
    "gate": [False, True, "token", 1, "x"],
    "num_frozen_tokens": [0, 1, 2, 3, -1, 10**9],
    "prefix_projection": [False, True, 0],
    "encoder_hidden_size": [512, 10**12, 0],
    "prefix_dropout": [0.0, 0.5, 1, float("nan"), "0"],
    "init_text": [None, "some words", " ", 5],
    "tokenizer_name_or_path": [None, "/etc", "nobody/nothing"],
    "position_mode": ["keep", "shift"],
    "release_dtype": ["float32", "bfloat16", "float64"],
    "attention_form": ["auto", "joined", "merged", "x"],
    "base_fingerprint": [None, [], [0.0] * 32, [float("nan")] * 32, "x"],
    "task_type": ["CAUSAL_LM", None, "SEQ_CLS", "SEQ_2_SEQ_LM", "QUESTION_ANS", "POETRY"],
    "auto_mapping": [None, {"base_model_class": "system", "parent_library": "os"}, {}],
    "inference_mode": [True, False, 1],
    "trained_with": [None, {"a": {"b": [1]}}, []],
    "peft_type": ["PREFIX_KV", "prefix_kv", "", 5, None, ["PREFIX_KV"]],
    "revision": [None, "main", 5],
    "runtime_config": [None, {}],
}
LATE = {"peft_type", "inference_mode", "peft_version", "sites", "modules_to_save"}  # that PEFT or we write anew
Case = tuple[bytes, bytes, str]  # config, weights, and how they are loaded


class Releases:
    """The target: a directory with a release of which one file is not what it was."""

    def __init__(self, directory: Path, file: str) -> None:
        self.directory, self.file = directory, file
        self.base = base_model()
        self.model = prefix_peft.wrap(deepcopy(self.base), P).eval()
        fill(self.model, "prefix_kv_encoder")
        self.model.save_pretrained(directory)
        self.whole = content(directory, CONFIG, WEIGHTS)
        self.look = Look(self.model)
        self._renew()

    def case(self, dice: Dice) -> Case:
        """A change somewhere in the file."""
        config, weights = self.whole
        if self.file == CONFIG:
            config = texts.as_file(dice, texts.changed(dice, parsed(config), LIKELY))
        else:
            weights = tensors.changed(dice, weights)
        return config, weights, dice.pick(["add"] * 8 + ["into"] * 4 + ["from_pretrained", "transformers"])

    def take(self, case: Case) -> None:
        """Load it; what is loaded must be what the files say."""
        config, weights, way = case
        self.tried_spare = False
        (self.directory / CONFIG).write_bytes(config)
        (self.directory / WEIGHTS).write_bytes(weights)
        try:
            WAYS[way](self, config, weights)
        except KeyError as error:  # PEFT's word for a method that it does not know
            kind = parsed(config).get("peft_type", "peft_type")
            raise (ValueError("unknown method") if error.args == (kind,) else error) from error

    def changed(self, closely: bool) -> str:
        """What the last case left behind."""
        return (self.spare_look.changed(closely) if self.tried_spare else "") or self.look.changed(closely)

    def _renew(self) -> None:
        """Another copy of the base, for those that wrap it themselves."""
        self.spare = deepcopy(self.base)
        self.spare_look, self.tried_spare = Look(self.spare), False

    def _added(self, config: bytes, weights: bytes) -> None:
        self.model.load_adapter(self.directory, "new")
        try:
            check(self.model, "new", config, weights)
        finally:
            self.model.delete_adapter("new")

    def _put_into(self, config: bytes, weights: bytes) -> None:
        self.model.load_adapter(self.directory, "default")
        try:
            check(self.model, "default", None, weights)
        finally:
            self.model.load_state_dict(self.look.tensors)

    def _loaded(self, config: bytes, weights: bytes) -> None:
        self.tried_spare = True
        check(peft.PeftModel.from_pretrained(self.spare, self.directory), "default", config, weights)
        self._renew()

    def _loaded_by_transformers(self, config: bytes, weights: bytes) -> None:
        self.tried_spare = True
        self.spare.load_adapter(str(self.directory))
        check(self.spare, "default", config, weights)
        self._renew()


WAYS: dict[str, Callable[[Releases, bytes, bytes], None]] = {
    "add": Releases._added,
    "into": Releases._put_into,
    "from_pretrained": Releases._loaded,
    "transformers": Releases._loaded_by_transformers,
}


def check(model: nn.Module, name: str, config: bytes | None, weights: bytes) -> None:
    """The prefix is the file's, number by number, and its config says what the file says."""
    found = tensors.read(weights)
    layers = [layer for layer in prefix_layers(model) if name in layer.config]
    ours = {key for key in found if ".prefix_kv." in key}
    for layer in layers:
        stem = f"base_model.model.{layer.site.name}.prefix_kv.prefix_kv_encoder"
        encoder = layer.encoder(name)
        held = dict(zip(("p_key", "p_value"), encoder(), strict=True)) | {"p_gate": encoder.p_gate}
        for part, tensor in held.items():
            if tensor is not None:
                theirs = found[f"{stem}.{part}"].astype("<f4")
                assert np.array_equal(tensor.detach().numpy(), theirs), f"{stem}.{part} is another"
                ours.discard(f"{stem}.{part}")
    assert not ours, f"{sorted(ours)} of the file are not in the model"
    if config is not None:
        said, held = parsed(config), layers[0].config[name]
        keys = {field.name for field in fields(PrefixConfig)} & said.keys() - LATE
        other = {key: (said[key], getattr(held, key)) for key in keys if repr(said[key]) != repr(getattr(held, key))}
        assert not other, f"the config says other things than the file: {other}"
