"""A base model of which layers lie on disk is wrapped, trained, saved and loaded like one that lies in memory."""

import peft
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import prefix_peft
from prefix_peft import offloaded

DISK = {  # what of each family; the rest stays in memory
    "llama": ("model.layers.1", "model.layers.2"),
    "gpt2": ("transformer.h.0", "transformer.h.2"),
    "t5": ("decoder.block.0", "decoder.block.2"),
}
KEPT = {
    "llama": ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"),
    "gpt2": (
        "transformer.wte", "transformer.wpe", "transformer.drop", "transformer.h.1", "transformer.ln_f", "lm_head",
    ),
    "t5": (
        "shared", "encoder", "decoder.embed_tokens", "decoder.block.1", "decoder.final_layer_norm", "decoder.dropout",
        "lm_head",
    ),
}  # fmt: skip
IDS = tiny.tokens(2, 7)


@pytest.fixture(params=list(DISK))
def family(request):
    return request.param


@pytest.fixture
def load(family, tmp_path):
    """Loads the base model, divided or whole."""
    tiny.build(family).save_pretrained(tmp_path / "base")
    auto = AutoModelForSeq2SeqLM if family in tiny.SEQ2SEQ else AutoModelForCausalLM
    places = dict.fromkeys(DISK[family], "disk") | dict.fromkeys(KEPT[family], "cpu")

    def load(divided):
        where = {"device_map": places, "offload_folder": str(tmp_path / "offload")} if divided else {}
        return auto.from_pretrained(tmp_path / "base", dtype=torch.float32, **where)

    return load


def trained(base, **options):
    torch.manual_seed(0)
    model = prefix_peft.wrap(base, 3, **options).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, labels=IDS).logits


@pytest.mark.parametrize("options", [{}, {"prefix_projection": True, "encoder_hidden_size": 8}], ids=["flat", "mlp"])
def test_it_trains_what_an_undivided_model_trains(options, load, tmp_path):
    divided, whole = trained(load(True), **options), trained(load(False), **options)
    assert {p.device.type for p in divided.get_base_model().parameters()} == {"cpu", "meta"}, "some are on disk"
    divided.save_pretrained(tmp_path / "prefix")
    ours, theirs = (peft.get_peft_model_state_dict(model) for model in (divided, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_way_to_load_onto_it(load, tmp_path):
    model = trained(load(False))
    model.save_pretrained(tmp_path / "prefix")
    loaded = peft.PeftModel.from_pretrained(load(True), str(tmp_path / "prefix"))
    by_transformers = load(True)
    by_transformers.load_adapter(str(tmp_path / "prefix"))
    second = prefix_peft.wrap(load(True), 3)
    second.load_adapter(str(tmp_path / "prefix"), "trained")
    second.set_adapter("trained")
    for each in (loaded, by_transformers, second):
        torch.testing.assert_close(logits(each), logits(model))
        assert "disk" in each.hf_device_map.values(), "the map is there again"


def test_other_methods_are_left_alone(load, tmp_path):
    peft.LoraConfig().save_pretrained(str(tmp_path / "lora"))
    prefix_peft.PrefixConfig().save_pretrained(str(tmp_path / "prefix"))
    base = load(True)
    with offloaded._mapped(base, None, str(tmp_path / "lora"), {}):
        assert "disk" in base.hf_device_map.values()
    with offloaded._mapped(base, None, str(tmp_path / "prefix"), {}):
        assert not hasattr(base, "hf_device_map")
