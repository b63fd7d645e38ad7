"""How a request comes to be behind its prefix, whether it is generated alone or in a batch with others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn

from fastapi import HTTPException
from transformers.cli.serving.utils import BaseGenerateManager, CBGenerateManager, GenerationState

from ..batching import Prompt
from ..layer import BASE


class PrefixGenerationState(GenerationState):
    """Generates for all names of the one model in one thread, or in one packed batch.

    Args:
        prefixes: the names that are not the base model's.
        **options: of transformers' state.
    """

    def __init__(self, prefixes: Collection[str], **options: Any) -> None:
        super().__init__(**options)
        self.prefixes = prefixes

    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        """The one manager, for requests behind this prefix; transformers' would begin anew with each other name."""
        manager = super().get_manager("the one model", use_cb=use_cb)
        return RequestManager(manager, model_id if model_id in self.prefixes else BASE)


class RequestManager(BaseGenerateManager):
    """Another manager, all of whose requests are behind one prefix."""

    def __init__(self, manager: BaseGenerateManager, adapter_name: str) -> None:
        self.manager = manager
        self.adapter_name = adapter_name

    def init_cb(self, model: Any, gen_config: Any) -> None:
        self.manager.init_cb(model, gen_config)

    def generate_streaming(self, model: Any, processor: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.manager.generate_streaming(model, processor, self._named(inputs), *args, **kwargs)

    async def generate_non_streaming(self, model: Any, processor: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.manager.generate_non_streaming(model, processor, self._named(inputs), *args, **kwargs)

    def _named(self, inputs: Any) -> dict[str, Any]:
        if isinstance(self.manager, CBGenerateManager):
            return {**inputs, "input_ids": Prompt(inputs["input_ids"], self.adapter_name)}
        return {**inputs, "adapter_names": [self.adapter_name]}

    def async_submit(self, *args: Any, **kwargs: Any) -> NoReturn:
        """System One's way to the model, which would be that of no name."""
        raise HTTPException(501, "Prefixes are served for completions, chat completions and responses only.")

    def stop(self) -> None:
        self.manager.stop()
