"""PrefixModel, the PEFT tuner: attaches prefixes to a model, detaches them, and routes rows to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from . import batching, frozen, positions, quantised
from .anatomy.sites import Anatomy, Site
from .anatomy.watching import anatomy_of, remembered_anatomy
from .attention.tried import try_kernels
from .by_hand.door import close_door, open_door
from .checkpoint import check_fits, check_tensors, encoders_of, folded
from .children import put, take
from .concatenate import check_request, concatenate, joint_config
from .config import PrefixConfig
from .encoders import FlatEncoder, MLPEncoder, Trunk
from .gathering import check_weights_are_here
from .hook import CHILD, Call, calling, current_call, install
from .initialize import start, starting_tokens
from .layer import BASE, PrefixLayer, check_names, prefix_layers
from .parts import PartedEncoder, take_parts_of_twin
from .resuming import TRAINED_NAME, is_more_than_its_release, trained_tensors


class PrefixModel(BaseTuner):
    """A frozen model with prefixes at its attention modules. PEFT builds it; the classmethods are its save and load."""

    prefix = "prefix_kv_"
    tuner_layer_cls: type[PrefixLayer] = PrefixLayer
    target_module_mapping: dict[str, list[str]] = {}

    def inject_adapter(self, model: PreTrainedModel, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Attach one more prefix. What is refused is refused before the model changes; what fails leaves no trace."""
        try:
            _check_name(adapter_name)
            check_weights_are_here(model)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            start(model, adapter_name, self._tokens)
            for layer in prefix_layers(model):
                if adapter_name in layer.config:
                    take_parts_of_twin(layer, adapter_name)
        except Exception:
            self.peft_config.pop(adapter_name, None)
            _detach(model, adapter_name)
            if not prefix_layers(model):
                quantised.release(model)
            raise
        install()
        try_kernels(model.device.type, model.dtype)
        batching.install()
        frozen.keep_frozen(model)
        positions.place(model)

    def _prepare_adapter_config(self, peft_config: PrefixConfig, model_config: dict[str, Any]) -> PrefixConfig:
        return peft_config  # nothing to look up: the sites are seen, not listed by model type

    def _prepare_model(self, peft_config: PrefixConfig, model: PreTrainedModel) -> None:
        if not peft_config.inference_mode:
            quantised.keep_trainable(model)
        anatomy = anatomy_of(model)
        self._matches = match_names(peft_config, anatomy)
        self._sites = choose_sites(peft_config, anatomy, self._matches, type(model).__name__)
        from_a_file = peft_config.file_shapes is not None
        check_fits(peft_config, self._sites, anatomy.fingerprint, model)
        self._tokens = None if from_a_file else starting_tokens(model, peft_config)
        self._trunks: list[Trunk] = []  # a list, so that it is not registered here as well as at the first site

    def _check_target_module_exists(self, peft_config: PrefixConfig, key: str) -> bool:
        return self._matches.get(key, False)

    def _create_and_replace(
        self,
        peft_config: PrefixConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if CHILD not in target._modules:
            put(target, CHILD, PrefixLayer(target, self._sites[current_key]))
            if self._sites[current_key].by_hand:
                open_door(target)
        layer = cast("PrefixLayer", target._modules[CHILD])
        layer.add(adapter_name, self._encoder(peft_config, self._sites[current_key]), peft_config)

    def _encoder(self, config: PrefixConfig, site: Site) -> FlatEncoder | MLPEncoder:
        length = config.length_at(site.name)
        if config.num_frozen_tokens or config.scale_parameter:
            return PartedEncoder(site, length, config)
        if not config.prefix_projection:
            return FlatEncoder(site, length, gate=config.gate)
        owns_trunk = not self._trunks
        if owns_trunk:
            self._trunks.append(Trunk(max(map(config.length_at, self._sites)), config.encoder_hidden_size))
        return MLPEncoder(site, length, self._trunks[0], owns_trunk=owns_trunk, gate=config.gate)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT opens this around ``forward`` and ``generate``; ``adapter_names`` says which prefix each row has."""
        rows = kwargs.get("adapter_names")
        if rows is None:
            yield
            return
        check_names(self.model, rows)
        with calling(replace(current_call() or Call(), rows=tuple(rows))):
            yield

    def generate_batch(
        self, inputs: list[list[int]], *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """transformers' continuous batching; ``adapter_names`` says which prefix each of ``inputs`` has."""
        return self.model.generate_batch(batching.named(self.model, inputs, adapter_names), *args, **kwargs)

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """PEFT takes ``adapter_names`` off before, but for MPT, where it would be lost."""
        with self._enable_peft_forward_hooks(adapter_names=adapter_names):
            return super().forward(*args, **kwargs)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        _detach(self.model, adapter_name)
        positions.place(self.model)
        if not prefix_layers(self.model):
            frozen.release(self.model)
            quantised.release(self.model)

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float] | None = None,
        adapter_name: str | None = None,
        combination_type: str = "cat",
    ) -> None:
        """Put several prefixes one after the other into one, which does what ``set_adapter(adapters)`` does.

        It is flat, its P is the sum of theirs, and it is not active yet. What was gated or frozen in each stays so.

        Args:
            adapters: whose prefixes.
            weights: all 1, or left out.
            adapter_name: of the new one.
            combination_type: 'cat'.

        Raises:
            ValueError: an unknown or taken name, weights, another combination, or prefixes that do not go together.
        """
        name = check_request(list(self.peft_config), adapters, weights, adapter_name, combination_type)
        layers = prefix_layers(self.model)
        self.peft_config[name] = joint_config(layers, adapters)
        self.inject_adapter(self.model, name)
        concatenate(layers, adapters, name)

    def unload(self) -> nn.Module:
        """The base model, without any trace of a prefix."""
        for layer in prefix_layers(self.model):
            _take_off(layer)
        positions.place(self.model)
        frozen.release(self.model)
        quantised.release(self.model)
        return super().unload()

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not possible: a prefix adds keys and values that every query weighs anew; no change of weights does that."""
        raise NotImplementedError(
            "A prefix cannot be merged into the weights: it adds keys and values to the softmax of each attention "
            "layer, which no fixed change of the weights reproduces. Keep it as an adapter (model.save_pretrained), or "
            "call model.unload() for the base model alone."
        )

    def merge_adapter(self, *args: Any, **kwargs: Any) -> NoReturn:
        """For the same reason."""
        self.merge_and_unload()

    @classmethod
    def _get_adapter_state_dict(cls, model, config: Any, adapter_name, state_dict, unwanted_adapter_names):
        known = remembered_anatomy(model.get_base_model() if isinstance(model, PeftModel) else model)
        config.base_fingerprint = None if known is None else known.fingerprint
        return folded(model, adapter_name, state_dict, getattr(torch, config.release_dtype))

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """PEFT looks for the name at the end alone, and an MLP's parameters have more behind it."""
        return key.replace(f".prefix_kv_encoder.{adapter_name}.", ".prefix_kv_encoder.", 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):
        config = cast("PrefixConfig", config)
        trained = trained_tensors() if is_more_than_its_release(config) else None
        if trained is not None:
            state_dict = {key: value for key, value in state_dict.items() if cls.prefix not in key} | trained
        elif any(isinstance(encoder, MLPEncoder) for _, encoder in encoders_of(model, adapter_name)):
            raise ValueError(
                f"adapter {adapter_name!r} trains through an MLP (prefix_projection=True), and a release holds the "
                "folded prefix, from which the MLP cannot be recovered. Load it as a new adapter, which trains flat, "
                f"or continue from a trainer's checkpoint-STEP as it was saved, with its {TRAINED_NAME}."
            )
        check_tensors(state_dict, model, adapter_name, config)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def choose_sites(config: PrefixConfig, anatomy: Anatomy, matches: dict[str, Any], model_name: str) -> dict[str, Site]:
    """The sites that ``config`` asks for; ``matches`` are the answers of `match_names`.

    Raises:
        ValueError: a role that the model does not have, a layer or module that nothing matches, or no site left.
    """
    roles = {site.role for site in anatomy.sites.values()}
    unknown = [role for role in config.sites or () if role not in roles]
    if unknown:
        raise ValueError(f"sites={config.sites} asks for {unknown}; {model_name} has {sorted(roles)}.")
    chosen = {name: anatomy.sites[name] for name, match in matches.items() if match}
    if not chosen:
        raise ValueError(
            f"No attention module of {model_name} matches target_modules={config.target_modules}, "
            f"exclude_modules={config.exclude_modules}, layers_to_transform={config.layers_to_transform}, "
            f"sites={config.sites}. Its attention modules are {_shortened(anatomy.sites)}."
        )
    for pattern in config.num_virtual_tokens_pattern:
        if not any(re.search(pattern, name) for name in chosen):
            raise ValueError(
                f"num_virtual_tokens_pattern has {pattern!r}, which fits none of the attention modules "
                f"{_shortened(chosen)}."
            )
    if config.position_mode == "shift" and not anatomy.positions:
        raise ValueError(
            f"position_mode='shift' counts learned positions from P on, but {model_name} has no table of learned "
            "positions (rotary and relative positions need no shift). Leave position_mode='keep'."
        )
    return chosen


def match_names(config: PrefixConfig, anatomy: Anatomy) -> dict[str, Any]:
    """PEFT's own answer for each site, as for LoRA (true, false, or its mark for excluded ones, which is false)."""
    endings = sorted({name.rpartition(".")[2] for name in anatomy.sites})
    matching = replace(config, target_modules=config.target_modules or endings)  # left out: all that attend
    return {
        name: (config.sites is None or site.role in config.sites) and check_target_module_exists(matching, name)
        for name, site in anatomy.sites.items()
    }


def _shortened(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _detach(model: nn.Module, adapter_name: str) -> None:
    """Take one adapter off its layers, and layers that hold no other off their attention modules."""
    for layer in prefix_layers(model):
        if adapter_name in layer.config:
            layer.remove(adapter_name)
        if not len(layer.prefix_kv_encoder):
            _take_off(layer)


def _take_off(layer: PrefixLayer) -> None:
    layer.config = {}  # whoever still knows the layer must find nothing in it
    close_door(layer.get_base_layer())
    take(layer.get_base_layer(), CHILD)


def _check_name(adapter_name: str) -> None:
    if adapter_name == BASE:
        raise ValueError(f"{BASE!r} is the name of no adapter (in adapter_names); choose another name.")
    if not adapter_name or "." in adapter_name or adapter_name.startswith(("/", "\\")):
        raise ValueError(
            f"an adapter cannot be called {adapter_name!r}: its name is part of its parameters' names and, on saving, "
            "of a path. Choose one without a dot that does not begin with a slash."
        )
