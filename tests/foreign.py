"""Prefixes as other libraries write them, and what their own code computes with them."""

import json

import peft
import tiny
import torch
import transformers as tr
from safetensors.torch import save_file
from torch import nn

import prefix_peft
from prefix_peft.layer import prefix_layers

P, WEIGHTS, CONFIG = 4, "adapter_model.safetensors", "adapter_config.json"
CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # float32 logits of up to 15, summed in another order
ROUNDING = 2 * torch.finfo(torch.float32).eps  # of a key that is turned twice, each time rounded once


def padded():
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    return {"input_ids": tiny.tokens(2, 9), "attention_mask": mask}


def bart(layers):
    torch.manual_seed(0)
    config = tiny.BART_LIKE | {"encoder_layers": layers, "decoder_layers": layers}
    model = tr.BartForConditionalGeneration(tr.BartConfig(**config)).eval()
    model.generation_config = tr.GenerationConfig(pad_token_id=0, eos_token_id=None, decoder_start_token_id=1)
    return model


def small(name, **config):
    torch.manual_seed(0)
    known = {key: value for key, value in (tiny.LLAMA_LIKE | config).items() if value is not None}
    return getattr(tr, f"{name}ForCausalLM")(getattr(tr, f"{name}Config")(**known)).eval()


BASES = {
    **{family: lambda family=family: tiny.build(family) for family in tiny.FAMILIES},
    "bart-2": lambda: bart(2),
    "bart-3": lambda: bart(3),
    "neox": lambda: small("GPTNeoX", num_attention_heads=3, num_key_value_heads=None, rotary_pct=0.5),  # partial
    "cohere": lambda: small("Cohere"),  # interleaved
    "gpt-oss": lambda: small(  # sinks, beside which equal tokens are not all the same
        "GptOss",
        num_local_experts=2,
        num_experts_per_tok=1,
        layer_types=["full_attention"] * 3,
        hidden_size=48,
        intermediate_size=32,
        rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4},
    ),
    "smollm3": lambda: small("SmolLM3", no_rope_layers=[1, 0, 1], pad_token_id=0),  # one layer without positions
}
KINDS = {
    "prefix": lambda **c: peft.PrefixTuningConfig(num_virtual_tokens=P, **c),
    "projection": lambda **c: peft.PrefixTuningConfig(
        num_virtual_tokens=P, prefix_projection=True, encoder_hidden_size=7, **c
    ),
    "cartridge": lambda **c: peft.CartridgeConfig(num_virtual_tokens=P, num_frozen_tokens=2, **c),
}


def by_peft(directory, base, kind="prefix", seed=0):
    """A prefix of PEFT's own making, and its own model with it."""
    torch.manual_seed(seed)
    task = "SEQ_2_SEQ_LM" if BASES[base]().config.is_encoder_decoder else "CAUSAL_LM"
    peft.get_peft_model(BASES[base](), KINDS[kind](task_type=task)).save_pretrained(directory)
    return peft.PeftModel.from_pretrained(BASES[base](), directory).eval()


def ours(directory, base):
    return peft.PeftModel.from_pretrained(BASES[base](), directory).eval()


@torch.no_grad()
def check_same(one, other, given=None, new=6):
    given = given or padded()
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(one(**given).logits[seen], other(**given).logits[seen], **CLOSE)
    options = {"max_new_tokens": new, "do_sample": False}
    assert torch.equal(one.generate(**given, **options), other.generate(**given, **options))


def embedding_and_mlp(name, maps, width, length=P, middle=7, inner=5):
    """Modules as the paper's code, P-tuning v2 and AdapterHub have them, in their own names."""
    mlp = nn.Sequential(nn.Linear(inner, middle), nn.Tanh(), nn.Linear(middle, width))
    module = nn.ModuleDict({"a": nn.Embedding(length, inner), "b": mlp})
    with torch.no_grad():
        mlp[2].weight.mul_(3)
        rows = mlp(module["a"](torch.arange(length)))
    state = {
        f"{name}.weight": module["a"].weight,
        **{f"{maps}.{key}": value for key, value in mlp.state_dict().items()},
    }
    return {key: value.detach().clone() for key, value in state.items()}, rows


def pairs_of(rows, layers, heads):
    """What these libraries' ``get_prompt`` makes of rows: for each layer keys and values (1, G, P, D)."""
    whole = rows.view(1, len(rows), layers * 2, heads, -1).permute(2, 0, 3, 1, 4).split(2)
    return [(part[0], part[1]) for part in whole]


@torch.no_grad()
def logits_behind(base, pairs, ids):
    cache = tr.DynamicCache(config=base.config)
    for layer, (keys, values) in enumerate(pairs):
        cache.update(keys.expand(len(ids), -1, -1, -1), values.expand(len(ids), -1, -1, -1), layer)
    return base(ids, past_key_values=cache)[0]


def write(path, state):
    path.mkdir()
    save_file(state, path / "prefix.safetensors")
    return path


def paper(path, form):
    torch.manual_seed(0)
    state, rows = embedding_and_mlp("wte", "control_trans", 3 * 2 * 44)
    if form == "flat":
        state = {"control_trans": rows.flatten().clone()}
    if form == "words":
        state = {"control_trans": torch.cat([torch.stack(pair) for pair in pairs_of(rows, 3, 4)]).contiguous()}
    return write(path, state), pairs_of(rows, 3, 4)


def filled(base, parts):
    """A prefix of ours with ``parts``: by role the pairs of its layers."""
    model = prefix_peft.wrap(BASES[base](), P).eval()
    layers = {role: [layer for layer in prefix_layers(model) if layer.site.role == role] for role in parts}
    for role, pairs in parts.items():
        for layer, (keys, values) in zip(layers[role], pairs, strict=True):
            layer.encoder("default").fill(keys[0], values[0])
    return model


def of_adapters(path, model_type, locations, *, flat=False, **settings):
    """A directory as ``save_adapter(..., use_safetensors=True)`` of AdapterHub leaves it, and the rows."""
    path.mkdir()
    state, rows = {}, {}
    for location, width in locations.items():
        name = f"model.prefix_tuning.prefix_tunings.mine.{location}"
        more, rows[location] = embedding_and_mlp(f"{name}.wte", f"{name}.control_trans", width)
        state |= {f"{name}.control_trans": rows[location].flatten()} if flat else more
    save_file({key: value.clone() for key, value in state.items()}, path / "adapter.safetensors")
    config = {"architecture": "prefix_tuning", "flat": flat, "prefix_length": P, "non_linearity": "tanh", **settings}
    whole = {"config": config, "model_type": model_type, "name": "mine", "version": "adapters.1.2.0"}
    (path / CONFIG).write_text(json.dumps(whole))
    return rows
