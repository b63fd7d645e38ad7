"""`prefix-peft inspect --plan`: against allocations of real training steps, and against sums done by hand."""

import gc
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, BartConfig, BitsAndBytesConfig, LlamaConfig, MixtralConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import plan as benchmark
from benchmarks.settings import Settings
from prefix_peft.__main__ import main
from prefix_peft.planning import command, memory, sharding
from prefix_peft.planning.counting import LiveBytes, bytes_of
from prefix_peft.planning.memory import Memory, count
from prefix_peft.planning.request import Request
from prefix_peft.planning.table import size, ways
from prefix_peft.planning.trial import held, learner, optimizer_of, texts, train_step
from prefix_peft.planning.weightless import Weightless

MIB = 2**20
SMALL = Settings(
    layers=2, width=128, heads=8, key_value_heads=4, intermediate_size=344, vocabulary=509, quiet=True
)  # fmt: skip
REAL = [
    *(("llama", way) for way in benchmark.WAYS if way != "bfloat16"),
    ("gpt2", "checkpointing"),
    ("t5", "float32"),
    ("bart", "bfloat16, checkpointing"),
]
LLAMA = LlamaConfig(**tiny.LLAMA_LIKE)
ONE_LAYER = LlamaConfig(**tiny.LLAMA_LIKE | {"num_hidden_layers": 1})
LAYERS, GROUPS, DIM, P = 3, 2, 14, 5
B, T, N = 3, 11, 4
TINY = Request(batch_size=B, sequence_length=T, max_new_tokens=N, num_virtual_tokens=P)


@pytest.mark.parametrize(("family", "way"), REAL)
def test_what_is_planned_is_what_is_taken(family, way):
    """Kernels take a little for themselves, and the plan takes each mask for one with padding, which costs 2 %."""
    config = benchmark.families(SMALL)[family]
    request = Request(2, 256, max_new_tokens=2, num_virtual_tokens=7, encoder_hidden_size=64, **benchmark.WAYS[way])
    taken = benchmark.measured(config, request, "cpu")
    assert count(config, request).training / MIB == pytest.approx(taken, rel=0.03)


def test_mixtures_of_experts():
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2}
    config = MixtralConfig(**tiny.LLAMA_LIKE | {"hidden_size": 48, "head_dim": 8, "intermediate_size": 32} | experts)
    request = Request(4, 60, max_new_tokens=2)
    assert count(config, request).training / MIB == pytest.approx(benchmark.measured(config, request, "cpu"), rel=0.03)


def test_answers_without_numbers():
    with Weightless():
        numbers, others = torch.ones(2, 3), torch.ones(2, 3)
        assert numbers.sum().item() == 1.0 and numbers.long().max().item() == 1
        assert not (numbers > 0).all() and numbers.cumsum(0).tolist() == [[1.0] * 3] * 2
        assert torch.equal(numbers, numbers) and not torch.equal(numbers, others)


def test_sums_by_hand():
    found = count(LLAMA, TINY)
    model = AutoModelForCausalLM.from_config(LLAMA)
    held = {t.data_ptr(): t.numel() * 4 for t in [*model.parameters(), *model.buffers()]}
    assert found.weights == sum(held.values())
    assert found.trained == LAYERS * P * 2 * GROUPS * DIM
    counters = 4 * LAYERS * 2  # Adam counts its steps, for each tensor
    assert found.states == 16 * found.trained + counters
    assert found.head == 4 * tiny.VOCAB * LLAMA.hidden_size
    assert found.largest_layer == 4 * sum(p.numel() for p in model.model.layers[0].parameters())
    keys_and_values = 2 * LAYERS * B * (T + N) * GROUPS * DIM * 4
    assert found.cache == pytest.approx(keys_and_values, rel=0.01)  # a few counters beside
    assert found.decoding > found.weights + 4 * found.trained + found.cache


def test_an_encoder_decoder_remembers_its_source_as_well():
    config = BartConfig(**tiny.BART_LIKE | {"encoder_layers": 1, "decoder_layers": 2})
    found = count(config, Request(batch_size=B, sequence_length=T, target_length=7, max_new_tokens=N))
    decoder = config.decoder_layers * B * (N + T) * 2 * config.d_model * 4  # its own text, and the source in each layer
    assert found.cache == pytest.approx(decoder + B * T * config.d_model * 4, rel=0.01)


def test_a_step_with_logits_at_its_peak():
    """One layer and many words: with the loss there are the logits, those that predict, and their logs."""
    config = LlamaConfig(**tiny.LLAMA_LIKE | {"vocab_size": 5003, "num_hidden_layers": 1})
    found = count(config, TINY)
    assert found.logits == (T + 2 * (T - 1)) * B * 5003 * 4
    assert found.training == found.weights + found.states + found.activations + found.logits


def test_what_each_way_saves(monkeypatch):
    monkeypatch.setattr(memory, "decoded", lambda *_: (0, 0))  # half of the work, and not asked about
    found = {str(way): count(LLAMA, way) for way in ways(TINY)}
    assert list(found) == [
        "float32", "bfloat16", "bfloat16, checkpointing", "bfloat16, 8-bit weights, checkpointing",
        "bfloat16, 4-bit weights", "bfloat16, 4-bit weights, checkpointing", "float32, every weight",
    ]  # fmt: skip
    full, half = found["float32"], found["bfloat16"]
    assert half.weights == pytest.approx(full.weights / 2, rel=0.01)
    assert found["bfloat16, checkpointing"].activations < half.activations
    model = AutoModelForCausalLM.from_config(LLAMA)
    projections = [module for name, module in model.named_modules() if name.endswith("_proj")]
    linear = [module.weight.numel() for module in projections]
    rest = half.weights - 2 * sum(linear)
    blocks = sum(-(-numbers // 64) for numbers in linear)
    assert found["bfloat16, 4-bit weights"].weights == rest + sum(numbers // 2 for numbers in linear) + 4 * blocks
    rows = sum(module.out_features for module in projections)
    assert found["bfloat16, 8-bit weights, checkpointing"].weights == rest + sum(linear) + 4 * rows
    every = found["float32, every weight"]
    assert every.trained == sum(p.numel() for p in model.parameters())
    assert every.states == 12 * every.trained + 4 * len(list(model.parameters()))
    assert every.activations > full.activations, "frozen linear maps need not keep their inputs"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_quantized_layers_take_what_those_of_bitsandbytes_take(bits, checkpointing, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    config = benchmark.families(SMALL)["llama"]
    config.intermediate_size = 352  # its kernel for CPUs wants multiples of 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    options = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**options), dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    for module in model.modules():  # it packs weights anew for CPUs that can, and then differentiates nothing
        module.support_avx512bf16_for_cpu = False
    weights = [parameter for parameter in model.parameters() if parameter.dtype in (torch.int8, torch.uint8)]
    scales = [weight.SCB if bits == 8 else weight.quant_state.absmax for weight in weights]
    request = Request(4, 100, max_new_tokens=2, dtype="bfloat16", bits=bits, gradient_checkpointing=checkpointing)
    planned = count(config, request)
    learning = learner(model, request)
    optimizer = optimizer_of(learning)
    batch = texts(model, request)
    train_step(learning, batch, optimizer, request)
    gc.collect()
    before = bytes_of([*held(learning, optimizer), *scales])
    with LiveBytes() as taken:
        train_step(learning, batch, optimizer, request)
    assert planned.training == pytest.approx(before + taken.peak, rel=0.02)


MEMORY = Memory(
    trained=1000, weights=80_000, states=16_000, activations=5000, logits=7000, cache=1, decoding=1,
    largest_layer=9000, head=3000,
)  # fmt: skip


def test_each_of_four_devices():
    on = {name: strategy(MEMORY, 4, torch.float32) for name, strategy in sharding.STRATEGIES.items()}
    every = 5000 + 7000  # activations and logits are each device's own
    assert on["ddp"].training == 80_000 + 16_000 + 4000 + every
    assert on["zero2"].training == 80_000 + 4000 + 12_000 // 4 + 4000 + every
    assert on["fsdp2"].training == (80_000 + 16_000) // 4 + 3000 + 2 * 9000 + every
    assert on["zero3"].training == (80_000 + 16_000) // 4 + 80_000 + every, "all fit into what DeepSpeed keeps"
    assert on["ddp"].received == on["zero2"].received == 2 * 4000 * 3 // 4
    assert on["fsdp2"].received == (2 * 80_000 - 3000) * 3 // 4
    assert on["zero3"].received == 2 * 80_000 * 3 // 4


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.json"
    ONE_LAYER.to_json_file(path)
    return path


def planned(capsys, *arguments):
    status = main(["inspect", "--plan", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_the_command(config_file, capsys, monkeypatch):
    monkeypatch.setattr(command, "ways", lambda request: [request, replace(request, dtype="bfloat16")])  # of six
    status, out, _ = planned(
        capsys, "--model", config_file, "--batch-size", 2, "--sequence-length", 9, "--device-memory", "0.00013",
        "--num-processes", 4, "--max-new-tokens", 3,
    )  # fmt: skip
    assert status == 0
    assert "20 virtual tokens" not in out and "a prefix of 20, 1,120 trained numbers" in out
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("|")}
    assert {"float32", "bfloat16", "ddp", "zero2", "fsdp2", "zero3"} <= rows.keys()
    found = count(ONE_LAYER, Request(batch_size=2, sequence_length=9, max_new_tokens=3))
    assert size(found.training) in rows["float32"] and size(found.decoding) in rows["float32"]
    assert "in 136 KiB" in out
    assert found.decoding < 0.00013 * 2**30 < found.training
    fits = [cell.strip() for cell in rows["float32"].split("|") if cell.strip() in ("yes", "no")]
    assert fits == ["yes" if used <= 0.00013 * 2**30 else "no" for used in (found.training, found.decoding)]


def test_a_model_larger_than_the_machine():
    """Two layers of 900 GiB: nothing of them may be made."""
    width, inner, heads = 2**17, 2**19, {"num_attention_heads": 1024, "num_key_value_heads": 8, "head_dim": 128}
    wide = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 2, **heads}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = count(LlamaConfig(**tiny.LLAMA_LIKE | wide), TINY)
    layer = 2 * width * width + 2 * width * 8 * 128 + 3 * width * inner + 2 * width
    assert found.weights == pytest.approx(4 * (2 * layer + 2 * tiny.VOCAB * width))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 2**10  # KiB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", 0], "--batch-size must be at least 1, got 0"),
        (["--sequence-length", 120], "--sequence-length plus --max-new-tokens is 220 tokens, and llama reads 128"),
        (["--num-processes", 0], "--num-processes must be at least 1, got 0"),
        (["--strategy", "ddp"], "--strategy ddp is for several devices; say how many with --num-processes"),
        (["--num-processes", 2, "--strategy", "zero3", "--load-in-4bit"], "which 4-bit ones are not"),
        (["--load-in-8bit", "--load-in-4bit"], "do not go together"),
        (["--device-memory", "-3"], "--device-memory must be above 0 GiB, got -3.0"),
        (["--adapter", "mine"], "a plan needs no --adapter, got 'mine'"),
        (["--num-virtual-tokens", 0], "--num-virtual-tokens must be at least 1, got 0"),
    ],
)
def test_impossible_requests(config_file, capsys, arguments, message):
    status, _, err = planned(capsys, "--model", config_file, *arguments)
    assert status == 2 and message in err


def test_other_impossible_requests(config_file, tmp_path, capsys):
    status, _, err = planned(capsys, "--model", tmp_path / "none.json")
    assert status == 2 and f"there is no config {tmp_path}/none.json" in err
    with pytest.raises(SystemExit):
        planned(capsys, "--model", config_file, "--num-processes", 2, "--strategy", "magic")
    assert "invalid choice: 'magic'" in capsys.readouterr().err
    assert main(["inspect", "--model", str(config_file), "--batch-size", "3"]) == 2
    assert "--batch-size 3 belongs to a plan; add --plan" in capsys.readouterr().err
    (tmp_path / "mamba.json").write_text(json.dumps({"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 8}))
    status, _, err = planned(capsys, "--model", tmp_path / "mamba.json")
    assert status == 2 and "cannot be served" in err
