"""What is served: one base model and its prefixes, each under a name of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from peft import PeftModel
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import Modality, split_model_id


class PrefixModelManager(ModelManager):
    """Loads one base model with all its prefixes, whichever of them a request names.

    Args:
        prefixes: where each release lies, by the name that requests give as their ``model``.
        **options: of transformers' manager, the base model as ``force_model`` among them.
    """

    def __init__(self, prefixes: dict[str, str], **options: Any) -> None:
        self.prefixes = prefixes
        self.base: str
        self.base_file: str | None
        self.base, self.base_file = split_model_id(options["force_model"])
        self.started: int = int(time.time())
        super().__init__(**options)
        self.force_model: str | None = None  # with one, each request would have to name it

    @property
    def names(self) -> list[str]:
        """All that a request may ask for, the base model first."""
        return [self.base, *self.prefixes]

    def process_model_name(self, model_id: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``model_id`` itself, where it is served.

        Raises:
            HTTPException: it is not (404).
        """
        if model_id not in self.names:
            raise HTTPException(404, f"No model {model_id!r} is served here; choose from {self.names}.")
        return model_id

    def load_model_and_processor(
        self, model_id_and_revision: str, progress_callback: Any = None, tqdm_class: Any = None, gguf_file: Any = None
    ) -> tuple[Any, Any]:
        """The same model under each of its names."""
        base = ModelManager.process_model_name(self.base)
        return super().load_model_and_processor(base, progress_callback, tqdm_class, self.base_file)

    def _load_model(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = super()._load_model(*args, **kwargs)
        for name, directory in self.prefixes.items():
            if isinstance(model, PeftModel):
                model.load_adapter(directory, name)
            else:
                model = PeftModel.from_pretrained(model, directory, adapter_name=name)
        return model.eval()

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The entries of ``/v1/models``; what else lies in the Hub's cache is not served."""
        common = {"object": "model", "created": self.started, "owned_by": ""}
        return [{"id": self.base} | common, *({"id": name, "parent": self.base} | common for name in self.prefixes)]

    @staticmethod
    def get_model_modality(model: Any, processor: Any = None) -> Modality:
        """By the class of the base model, which PEFT's stands around."""
        return ModelManager.get_model_modality(model.get_base_model(), processor)


def base_unless_named(original: Callable[..., Any], handler: Any, body: dict[str, Any]) -> Any:
    """For ``BaseHandler._resolve_model``: a request without a model's name is the base's."""
    if body.get("model") is None:
        body["model"] = handler.model_manager.base
    return original(handler, body)
