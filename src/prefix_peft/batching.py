"""Continuous batching: which request of a packed batch has which prefix.

transformers runs the model in a thread of its own, on batches that its scheduler packs anew at each step. A request
carries the name of its adapter with it; the step that serves it opens a `Call` that says whose tokens lie where.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from copy import copy
from typing import Any, cast

from torch import nn
from transformers.generation.continuous_batching import continuous_api

from .hook import Call, calling
from .layer import BASE, check_names, prefix_layers


class Prompt(list[int]):
    """The tokens of a request that names its adapter, as the requests are sorted and queued before they start."""

    def __init__(self, tokens: Iterable[int], adapter_name: str) -> None:
        super().__init__(tokens)
        self.adapter_name = adapter_name


def named(model: nn.Module, inputs: list[list[int]], adapter_names: Sequence[str] | None) -> list[list[int]]:
    """``inputs``, each with its name.

    Raises:
        ValueError: a name that ``model`` does not have, or another number of names than of inputs.
    """
    if adapter_names is None:
        return inputs
    check_names(model, adapter_names)
    if len(adapter_names) != len(inputs):
        raise ValueError(f"adapter_names has {len(adapter_names)} names for {len(inputs)} inputs.")
    return [Prompt(tokens, name) for tokens, name in zip(inputs, adapter_names, strict=True)]


class PrefixBatchingManager(continuous_api.ContinuousBatchingManager):
    """The manager of transformers, whose requests may each name an adapter. Other models notice nothing."""

    def __init__(self, model: Any, generation_config: Any, continuous_batching_config: Any, **options: Any) -> None:
        self.served: bool = bool(prefix_layers(model))
        if self.served:
            continuous_batching_config = _suited(model, continuous_batching_config)
        super().__init__(model, generation_config, continuous_batching_config, **options)
        if self.served:
            self.logit_processor.supported_keys["adapter_name"] = str  # it travels with their settings

    def add_request(
        self, input_ids: list[int], *args: Any, adapter_name: str | None = None, **kwargs: Any
    ) -> str | None:
        """Queue one request, for the adapter ``adapter_name``; without one it has those that are active."""
        if isinstance(input_ids, Prompt):
            adapter_name = input_ids.adapter_name
        if adapter_name is not None:
            check_names(self.model, [adapter_name])
            kwargs["adapter_name"] = adapter_name
        return super().add_request(input_ids, *args, **kwargs)

    def add_requests(
        self, inputs: list[list[int]], *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> list[str]:
        """Queue one request for each of ``inputs``, with its adapter where ``adapter_names`` are given."""
        return super().add_requests(named(self.model, inputs, adapter_names), *args, **kwargs)

    def _generation_step(self) -> None:
        call = self._call() if self.served else None
        with nullcontext() if call is None else calling(call):
            super()._generation_step()

    def _call(self) -> Call | None:
        """Whose tokens the packed batch holds; None where no request names an adapter."""
        batch = cast("Any", self.batch_processor).inputs_and_outputs
        rows = [request.state.logit_processor_kwargs.get("adapter_name") for request in batch.requests_in_batch]
        if not any(rows):
            return None
        lengths = [request.query_length for request in batch.requests_in_batch]
        return Call(rows=(*rows, BASE), lengths=(*lengths, batch.num_q_tokens - sum(lengths)))  # the last is padding


def install() -> None:
    """Let ``init_continuous_batching`` make managers of this kind, once per process."""
    continuous_api.ContinuousBatchingManager = PrefixBatchingManager


def _suited(model: Any, config: Any) -> Any:
    """``config`` as prefixes need it: equal tokens behind different prefixes have different keys, so none are shared.

    Raises:
        NotImplementedError: attention that does not read pages, or to which no prefix can be given; steps prepared
            in advance.
    """
    if any(layer.site.by_hand for layer in prefix_layers(model)):
        raise NotImplementedError(
            f"{type(model).__name__} computes its attention by hand and does not read the pages of continuous "
            "batching, with a prefix or without; use generate()."
        )
    implementation = model.config._attn_implementation
    if implementation.removeprefix("paged|") not in ("eager", "sdpa"):
        raise NotImplementedError(
            f"{type(model).__name__} runs attn_implementation={implementation!r}, to which continuous batching cannot "
            "give a prefix yet; call model.set_attn_implementation('sdpa') first."
        )
    for option in ("use_cuda_graph", "use_async_batching"):
        if getattr(config, option) not in (None, False, (False, False)):
            raise NotImplementedError(
                f"{option}={getattr(config, option)} repeats or prepares a step, and each step of a model with "
                "prefixes may need other ones; leave it out."
            )
    config = copy(config)
    config.allow_block_sharing = config.auto_switch_to_flash = False
    config.use_cuda_graph = config.use_async_batching = False
    return config
