# pyright: strict
"""What a user may write, and a strict type checker must understand. `make types` reads this file; nothing runs it."""

from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase

import prefix_peft
from prefix_peft import PrefixConfig, PrefixModel, convert, inside, metrics


def wrapped(base: PreTrainedModel) -> PeftModel:
    model = prefix_peft.wrap(base, num_virtual_tokens=5, gate=True, sites=["decoder"])
    tuner: nn.Module = model.base_model
    assert isinstance(tuner, PrefixModel)
    tuner.add_weighted_adapter(["default"], [1.0], adapter_name="copy")
    unloaded: nn.Module = tuner.unload()
    assert unloaded is base
    return model


def configured() -> PrefixConfig:
    config = PrefixConfig(task_type="CAUSAL_LM", num_virtual_tokens=7, prefix_projection=True, encoder_hidden_size=64)
    length: int = config.length_at("model.layers.0.self_attn")
    assert length == config.num_virtual_tokens
    return config


def started(model: PeftModel, tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> tuple[float, float]:
    return (
        prefix_peft.initialize_kv_prefix_from_tokens(model, ids, adapter_name="default"),
        prefix_peft.initialize_kv_prefix_from_text(model, tokenizer, "Summarise this text."),
    )


def sites(model: nn.Module) -> dict[str, tuple[str, int, dict[str, int]]]:
    return {
        report.site.name: (report.form or report.reason, report.parameters("default"), report.lengths)
        for report in prefix_peft.inspect(model)
    }


def converted(directory: Path, base: PreTrainedModel) -> tuple[list[str], DynamicCache | EncoderDecoderCache]:
    done: convert.Conversion = convert.convert(directory, "release", base, to="peft")
    model: PeftModel = convert.load("release", base)
    cache = convert.to_cache(model, batch_size=2)
    formats: list[str] = list(convert.FORMATS)
    assert done.new in formats
    return done.notes, cache


def looked_into(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    ours, theirs = inside.read_release("a"), inside.read_release("b")
    likeness: Tensor = inside.compare(ours, theirs).key_cosine
    words: list[str] = [word.text for near in inside.nearest_words(model, tokenizer, most=3) for word in near.words]
    facts: dict[str, str] = ours.facts
    assert words and facts and likeness.numel()
    with inside.observe(model) as seen:
        model(input_ids=torch.tensor([[1]]))
    shares = {site.name: seen.weights(site.name) for site in seen.sites}
    masses = inside.attention_mass(model, tokenizer, "a text")
    return shares | {mass.site.name: mass.heads for mass in masses.sites}


def scored(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    report = metrics.score(predictions, references, protocol="webnlg", metrics=["bleu"])
    single: list[float] = [
        metrics.bleu(predictions, references), metrics.chrf(predictions, references, word_order=2),
        metrics.ter(predictions, references), metrics.nist(predictions, references),
    ]  # fmt: skip
    unavailable: dict[str, str] = report.unavailable
    return report.scores | {"mean": sum(single) / len(single), "lacking": float(len(unavailable))}
