"""Several ranks train the prefix that one process trains; they are real processes, which talk through gloo."""

import json
import math
import sys
from pathlib import Path

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, set_seed
from peft import PeftModel
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import prefix_peft
from drills import rank_runs
from drills.ranks import ROUNDED, distance, log_distance, start
from prefix_peft.__main__ import main
from prefix_peft.commands import launch
from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import encode_pairs
from prefix_peft.data.tasks import read_jsonl, training_pairs
from prefix_peft.demo import run
from prefix_peft.ranks.sharing import own_share, shared_batches

ALONE = ["plain+evaluated", "mlp", "sinks+sentences", "script+mlp"]
TOGETHER = {  # on two ranks, and what it must be like
    "plain+late+evaluated": "plain+evaluated",
    "mlp+accumulated+saved": "mlp",
    "sinks+sentences+fsdp2": "sinks+sentences",
    "script+mlp": "script+mlp",
}
KEPT = ["mlp+dropout+saved+fsdp2", "mlp+dropout+resumed+fsdp2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one process has trained, and two together."""
    path = tmp_path_factory.mktemp("ranks")
    rank_runs.write_data(path / "data.jsonl")
    rank_runs.main([str(path / "one"), *ALONE])
    start(2, path / "two", [*TOGETHER, *KEPT])
    yield path
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("way", TOGETHER)
def test_two_ranks_train_the_prefix_of_one(way, folder):
    one, two = folder / "one" / TOGETHER[way], folder / "two" / way
    assert distance(one, two) < ROUNDED
    if "script" not in way:
        assert log_distance(one, two) < ROUNDED
        assert (two / "README.md").read_text() != "" and not list(two.glob(".*"))


def test_one_process_takes_the_steps_of_a_loop(folder):
    """Pair by pair, without padding, batches or Accelerate."""
    set_seed(1)
    base, tokenizer = load_base(str(run.BASE))
    texts = training_pairs(read_jsonl(folder / "data.jsonl"))
    pairs = encode_pairs(texts, tokenizer, is_encoder_decoder=False, separator=run.SEPARATOR)
    model = prefix_peft.wrap(base, 4, scale_parameter=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    orders = [torch.randperm(9, generator=torch.Generator().manual_seed(1 + epoch)).tolist() for epoch in range(2)]
    steps = [order[start : start + 4] for order in orders for start in range(0, 9, 4)]
    for step, numbers in enumerate(steps[: rank_runs.STEPS]):
        labels = [torch.tensor(pairs[number]["labels"][1:]) for number in numbers]
        for number, wanted in zip(numbers, labels, strict=True):
            logits = model(torch.tensor([pairs[number]["input_ids"]])).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
            (loss / sum(int((row >= 0).sum()) for row in labels)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = 3e-2 * (1 - step / rank_runs.STEPS)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(folder / "by_hand"))
    assert distance(folder / "by_hand", folder / "one" / "plain+evaluated") < ROUNDED


def test_a_resumed_run_goes_on_with_the_random_numbers_of_every_rank(folder):
    whole, resumed = (folder / "two" / name for name in KEPT)
    assert distance(whole, resumed) == 0 == log_distance(whole, resumed)
    state = load_file(whole / f"checkpoint-{rank_runs.SAVED}" / "training_state.safetensors")
    assert not torch.equal(state["random.cpu.0"], state["random.cpu.1"])


def test_a_run_is_resumed_on_another_number_of_ranks(folder, monkeypatch):
    """One process goes on from what two left; with dropout it cannot."""
    one, two = folder / "one", folder / "two"
    (one / "mlp+saved").symlink_to(two / "mlp+accumulated+saved")
    rank_runs.main([str(one), "mlp+resumed"])
    assert distance(one / "mlp", one / "mlp+resumed") < ROUNDED
    (one / "mlp+dropout+saved").symlink_to(two / KEPT[0])
    with pytest.raises(ValueError, match=r"2 pairs a batch x 1 batches x 2 ranks, now 4 pairs .* x 1 ranks; with"):
        rank_runs.main([str(one), "mlp+dropout+resumed"])
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(rank_runs, "PAIRS_A_STEP", 6)
    with pytest.raises(ValueError, match=r"have 4 pairs \(1 .* x 2 ranks\), now it would be 6 \(6 pairs a batch"):
        rank_runs.main([str(one), "mlp+resumed"])


def test_a_sharded_prefix_is_a_release_like_any_other(folder):
    for way in ("sinks+sentences+fsdp2", "script+mlp"):
        assert {path.name for path in (folder / "two" / way).iterdir()} >= {"adapter_config.json", "README.md"}
        loaded = PeftModel.from_pretrained(load_base(str(run.BASE))[0], str(folder / "two" / way))
        assert loaded.peft_config["default"].num_virtual_tokens == 4


def test_ranks_share_an_evaluation(folder):
    """Each as soon as it has trained, which the second has before the first has written the prefix."""
    ways = ("one/plain+evaluated", "two/plain+late+evaluated")
    one, two = (json.loads((folder / way / "evaluation.json").read_text()) for way in ways)
    assert two["generations"] == one["generations"] and len(one["generations"]["with prefix"]) == 5
    assert two["scores"]["with prefix"] == pytest.approx(one["scores"]["with prefix"], rel=1e-6)


def test_a_rank_that_is_done_waits_for_the_others(folder):
    came, left = (float((folder / "two" / name).read_text()) for name in ("came-1", "left-0"))
    assert left > came > float((folder / "two" / "came-0").read_text()) + rank_runs.LATE / 2, "the second was late"


def test_a_command_parts_from_the_other_ranks(tmp_path):
    (tmp_path / "texts").write_text("a b\n")
    (tmp_path / "data.jsonl").write_text(json.dumps({"references": ["a b"]}))
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", world_size=1, rank=0)
    assert main(["score", "--predictions", str(tmp_path / "texts"), "--references", str(tmp_path / "data.jsonl")]) == 0
    assert not torch.distributed.is_initialized()


class Rank:
    """A place among others, without the others."""

    def __init__(self, process_index, num_processes):
        self.process_index, self.num_processes, self.device = process_index, num_processes, torch.device("cpu")


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_every_example_counts_once(ranks, size, count, monkeypatch):
    examples = [{"input_ids": [number] * 3, "labels": [-100, number, number]} for number in range(count)]
    seen, rounds, shares = [], set(), []
    for rank in range(ranks):
        monkeypatch.setattr("prefix_peft.ranks.sharing.PartialState", lambda rank=rank: Rank(rank, ranks))
        batches = list(
            shared_batches(examples, size, lambda rows: {"labels": torch.tensor([r["labels"] for r in rows])})
        )
        seen += [int(row[1]) for batch in batches for row in batch["labels"] if row[1] != -100]
        rounds.add(len(batches))
        assert all(len(batch["labels"]) <= size for batch in batches)
        shares.append(own_share(range(count)))
    assert sorted(seen) == list(range(count)) == sorted(item for share in shares for item in share)
    assert rounds == {math.ceil(count / (ranks * size))}, "as many on each, and no more than needed"


class State:
    """Of a launch that did not get what it asked for."""

    def __init__(self, num_processes, distributed_type=DistributedType.NO):
        self.num_processes, self.distributed_type = num_processes, distributed_type
        self.device = torch.device("cpu")


def test_a_launch_that_runs_on_one_rank_is_refused(monkeypatch):
    launch.check_launch(State(1))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"3 processes were asked for.*torchrun --nproc_per_node 3"):
        launch.check_launch(State(1))
    launch.check_launch(State(3, DistributedType.MULTI_CPU))


ASKED = ["accelerate", "launch", "--cpu"]


@pytest.mark.parametrize("command", [["python", *ASKED, "--num_processes", "4"], [*ASKED, "--num-processes=4"]])
def test_accelerate_launch_on_cpus_is_found_out(command, monkeypatch):
    import psutil

    class Parent:
        def cmdline(self):
            return [*command, "-m", "prefix_peft", "train"]

    monkeypatch.setattr(psutil.Process, "parents", lambda _: [Parent()])
    launch.check_launch(State(1))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ValueError, match=r"4 processes were asked for"):
        launch.check_launch(State(1))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharding_that_is_not_in_force_is_refused(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=rf"{name} was asked for but is not in force: on cpu with 2 process"):
        launch.check_launch(State(2, DistributedType.MULTI_CPU))
    launch.check_launch(State(2, DistributedType(name)))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_prefix_held_in_parts_is_written_by_the_first_rank(rank, monkeypatch, tmp_path):
    model = prefix_peft.wrap(tiny.build("llama"), 3)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    monkeypatch.setattr("prefix_peft.plugin.saving.is_held_in_parts", lambda _: True)
    model.save_pretrained(str(tmp_path))
    assert any(tmp_path.iterdir()) == (rank == 0)


def test_an_mlp_sharded_with_one_layer_says_what_to_do():
    """A trunk whose parameters are left in parts, as other layers than the first would find it."""
    trunk = prefix_peft.wrap(tiny.build("llama"), 3, prefix_projection=True).get_submodule(
        "base_model.model.model.layers.0.self_attn.prefix_kv.prefix_kv_encoder.default.trunk"
    )
    trunk.embedding.full_tensor = None  # what tells a DTensor
    with pytest.raises(ValueError, match=r"fully_shard\(module\) for each prefix_peft.encoders.Trunk"):
        trunk()


def test_weights_that_only_the_first_rank_loads_are_refused(monkeypatch):
    monkeypatch.setattr("prefix_peft.gathering.is_fsdp_enabled", lambda: True)
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading lets the first rank alone load"):
        prefix_peft.wrap(tiny.build("llama"), 3)
