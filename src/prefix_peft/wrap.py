"""One line for those who do not know PEFT."""

from __future__ import annotations

import inspect
from typing import Any

import peft
from transformers import PreTrainedModel

from .config import PrefixConfig

# The last part of a transformers class name says what the model is for.
TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


def wrap(model: PreTrainedModel, num_virtual_tokens: int = 20, **options: Any) -> peft.PeftModel:
    """Freeze ``model`` and give every attention layer a trainable prefix of ``num_virtual_tokens`` keys and values.

    Args:
        model: any transformers model that attends.
        num_virtual_tokens: P, the length of the prefix.
        **options: the other fields of `PrefixConfig`; ``task_type`` is inferred where it is not given.

    Returns:
        A ``peft.PeftModel``: train it, call ``save_pretrained``, ``generate``, ``print_trainable_parameters`` on it.

    Raises:
        ValueError: the model is wrapped already, has no attention to serve, or an option makes no sense.
    """
    if isinstance(model, peft.PeftModel):
        raise ValueError(
            "the model is a PeftModel already; add another prefix with model.add_adapter(name, PrefixConfig())."
        )
    options.setdefault("task_type", infer_task_type(model))
    return peft.get_peft_model(model, PrefixConfig(num_virtual_tokens=num_virtual_tokens, **options))


def infer_task_type(model: PreTrainedModel) -> str | None:
    """PEFT's task type for a transformers model, from its class name and whether it has an encoder and a decoder.

    None where the model takes no tokens (speech, images): each of PEFT's task classes would hand it ``input_ids``.
    """
    if "input_ids" not in inspect.signature(model.forward).parameters:
        return None
    if getattr(model.config, "is_encoder_decoder", False) and model.can_generate():
        return "SEQ_2_SEQ_LM"
    for ending, task_type in TASK_TYPES.items():
        if type(model).__name__.endswith(ending):
            return "CAUSAL_LM" if task_type == "SEQ_2_SEQ_LM" else task_type  # decoders that also see or hear
    return "CAUSAL_LM" if model.can_generate() else "FEATURE_EXTRACTION"
