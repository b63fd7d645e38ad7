"""The release file: exactly P, bit-equal in a new process, and refused whole when it does not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.whole import write_text

WEIGHTS = "adapter_model.safetensors"
FORMS = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 13}, "gate": {"gate": True}}


def saved(path, family="llama", **options):
    model = tiny.fill(prefix_peft.wrap(tiny.build(family), 3, **options)).eval()
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_the_file_holds_exactly_p(family, form, tmp_path):
    model = saved(tmp_path, family, **FORMS[form])
    sites = [m for m in model.modules() if isinstance(m, prefix_peft.layer.PrefixLayer)]
    tensors = load_file(tmp_path / WEIGHTS)
    numbers = sum(
        s.site.num_key_value_heads * (3 * (s.site.key_dim + s.site.value_dim) + (form == "gate")) for s in sites
    )
    assert sum(tensor.numel() for tensor in tensors.values()) == numbers
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    again = peft.PeftModel.from_pretrained(tiny.build(family), tmp_path).eval()
    given = tiny.inputs(family)
    # the file is folded by one product more than the MLP itself takes, hence not to the last bit
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if form == "mlp" else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(again(**given).logits, model(**given).logits, **tolerance)
    assert again.peft_config["default"].prefix_projection is False


@torch.no_grad()
def test_a_release_in_half_precision_has_half_the_size_and_loads_in_float32(tmp_path):
    model = saved(tmp_path / "half", release_dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / WEIGHTS).values()} == {torch.bfloat16}
    again = peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path / "half")
    for name, p in tiny.prefix_parameters(again).items():
        assert p.dtype == torch.float32
        assert torch.equal(p, tiny.prefix_parameters(model)[name].bfloat16().float())


@pytest.mark.parametrize("family", ["gpt2", "opt", "bart", "llama"])
@torch.no_grad()
def test_a_prefix_of_real_tokens_keeps_its_positions(family, tmp_path):
    model = prefix_peft.wrap(tiny.build(family), 5).eval()
    prefix_peft.initialize_kv_prefix_from_tokens(model, tiny.tokens(1, 5, seed=7))
    model.save_pretrained(tmp_path)
    again, given = peft.PeftModel.from_pretrained(tiny.build(family), tmp_path).eval(), tiny.inputs(family)
    assert torch.equal(again(**given).logits, model(**given).logits)
    assert again.peft_config["default"].position_mode == ("keep" if family == "llama" else "shift")


def test_a_new_process_computes_the_same_bits(tmp_path):
    tiny.build("gpt2").save_pretrained(tmp_path / "base")
    base = tiny.tr.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = tiny.fill(prefix_peft.wrap(base, 3)).eval()
    model.save_pretrained(tmp_path / "prefix")
    ids = tiny.tokens(2, 7)
    torch.save(ids, tmp_path / "ids.pt")
    script = (
        "import sys, torch, prefix_peft; from peft import AutoPeftModelForCausalLM\n"
        "torch.set_num_threads(1); model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1] + '/prefix').eval()\n"
        "with torch.no_grad(): torch.save(model(torch.load(sys.argv[1] + '/ids.pt')).logits, sys.argv[1] + '/out.pt')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "out.pt"), model(ids).logits)


def shorten(path):
    data = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(data[: len(data) // 2])


def rewrite(change):
    def corrupt(path):
        tensors = load_file(path / WEIGHTS)
        change(tensors, sorted(tensors))
        save_file(tensors, path / WEIGHTS)

    return corrupt


def pickle_instead(path):
    torch.save(load_file(path / WEIGHTS), path / "adapter_model.bin")
    (path / WEIGHTS).unlink()


def other_length(path):
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"num_virtual_tokens": 4}))


KEY = "base_model.model.model.layers.0.self_attn.prefix_kv.prefix_kv_encoder.p_key"
CORRUPTIONS = {
    "truncated": (shorten, "is no whole safetensors file"),
    "empty": (lambda path: (path / WEIGHTS).write_bytes(b""), "is no whole safetensors file"),
    "missing": (rewrite(lambda tensors, keys: tensors.pop(keys[0])), rf"5 tensors found, 6 needed\):\n  missing {KEY}"),
    "extra": (rewrite(lambda tensors, keys: tensors.update(stray=torch.zeros(2))), r"unexpected stray \(2,\)"),
    "shape": (
        rewrite(lambda tensors, keys: tensors.update({keys[0]: torch.zeros(2, 3, 9)})),
        rf"{KEY} is \(2, 3, 9\) in the file, the model needs \(2, 3, 14\)",
    ),
    "pickle": (pickle_instead, "would be a pickle, which can run code when read and is never opened"),
    "config": (other_length, r"is \(2, 3, 14\) in the file, the model needs \(2, 4, 14\)"),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_broken_files_are_refused_before_anything_changes(kind, tmp_path):
    saved(tmp_path)
    corrupt, message = CORRUPTIONS[kind]
    corrupt(tmp_path)
    base = tiny.build("llama")
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(ValueError, match=message):
        peft.PeftModel.from_pretrained(base, tmp_path)
    assert [name for name, _ in base.named_modules()] == names and not hasattr(base, "peft_config")
    assert all(p.requires_grad for p in base.parameters())
    model = tiny.fill(prefix_peft.wrap(base, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.load_adapter(tmp_path, "second")
    assert list(model.peft_config) == ["default"]
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind != "config"])
def test_broken_files_are_refused_by_transformers_load_adapter(kind, tmp_path):
    saved(tmp_path)
    corrupt, message = CORRUPTIONS[kind]
    corrupt(tmp_path)
    base = tiny.build("llama")
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(ValueError, match=message):
        base.load_adapter(str(tmp_path))
    assert [name for name, _ in base.named_modules()] == names


def test_a_file_for_another_model_is_refused(tmp_path):
    saved(tmp_path, "gpt2")
    with pytest.raises(ValueError, match="was not made for this LlamaForCausalLM"):
        peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path)


def test_a_base_of_the_same_shapes_but_other_weights_is_refused(tmp_path):
    saved(tmp_path)
    for load in (peft.PeftModel.from_pretrained, lambda base, path: base.load_adapter(str(path))):
        other = tiny.build("llama", seed=1)
        with pytest.raises(ValueError, match=r"another base model than this LlamaForCausalLM: .* differ by \d{3}%"):
            load(other, tmp_path)
        assert not any("prefix" in name for name, _ in other.named_modules())
    config = peft.PeftConfig.from_pretrained(tmp_path)
    config.base_fingerprint = None
    assert peft.PeftModel.from_pretrained(tiny.build("llama", seed=1), tmp_path, config=config)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_another_precision_of_the_same_base_is_the_same_base(family, tmp_path):
    saved(tmp_path, family)
    assert peft.PeftModel.from_pretrained(tiny.build(family).bfloat16(), tmp_path)


def test_weights_that_do_not_fit_an_existing_adapter_are_refused(tmp_path):
    saved(tmp_path)
    model = tiny.fill(prefix_peft.wrap(tiny.build("llama"), 5))
    before = [p.clone() for p in tiny.prefix_parameters(model).values()]
    with pytest.raises(ValueError, match=r"is \(2, 3, 14\) in the file, the model needs \(2, 5, 14\)"):
        model.load_adapter(tmp_path, "default")
    assert all(torch.equal(p, q) for p, q in zip(tiny.prefix_parameters(model).values(), before, strict=True))


def test_a_release_cannot_go_into_an_mlp(tmp_path):
    saved(tmp_path)
    model = prefix_peft.wrap(tiny.build("llama"), 3, **FORMS["mlp"])
    with pytest.raises(ValueError, match=r"trains through an MLP .* Load it as a new adapter"):
        model.load_adapter(tmp_path, "default")


@pytest.mark.parametrize("form", FORMS)
def test_a_release_trains_on(form, tmp_path):
    saved(tmp_path, **FORMS[form])
    model = peft.PeftModel.from_pretrained(tiny.build("llama"), tmp_path, is_trainable=True).train()
    before = {name: p.clone() for name, p in tiny.prefix_parameters(model).items()}
    ids = tiny.tokens(2, 7)
    model(ids, labels=ids).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    assert not any(torch.equal(p, before[name]) for name, p in tiny.prefix_parameters(model).items())


WRITER = """
import os, sys, torch, tiny, prefix_peft
model = prefix_peft.wrap(tiny.build("llama"), 2000)
def write(directory):
    while True:
        for value in (1.0, 2.0):
            with torch.no_grad():
                for p in tiny.prefix_parameters(model).values():
                    p.fill_(value)
            model.save_pretrained(directory)
for directory in sys.stdin:
    writer = os.fork()  # of a process that has imported everything and never ran backward: it starts at once
    if not writer:
        write(directory.strip())
    print(writer, flush=True)
"""


@pytest.fixture
def start_writer(tmp_path):
    """Of a directory: a process that saves a prefix there again and again, and its number."""
    path = os.pathsep.join([os.path.dirname(tiny.__file__), *filter(None, [os.environ.get("PYTHONPATH")])])
    errors = tmp_path / "errors"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors.open("wb"), "text": True}
    environment = os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}  # none outlives a fork
    started = []
    with subprocess.Popen([sys.executable, "-c", WRITER], env=environment, **pipes) as parent:

        def start(directory):
            print(directory, file=parent.stdin, flush=True)
            number = parent.stdout.readline()
            assert number, f"no writer was started: {errors.read_text()[-2000:]}"
            started.append(int(number))
            return started[-1]

        yield start
        for writer in started:
            os.kill(writer, signal.SIGKILL)  # their parent has not asked for their end, so the numbers are theirs yet
        parent.stdin.close()
    pipes["stderr"].close()
    assert "Traceback" not in errors.read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the writers are forks of one process")
def test_a_writer_killed_at_any_moment_leaves_a_whole_file(start_writer, tmp_path):
    for i in range(20):
        (directory := tmp_path / f"{i // 4}").mkdir(exist_ok=True)
        writer, deadline = start_writer(directory), time.monotonic() + 120
        while not (directory / "adapter_config.json").exists():
            assert time.monotonic() < deadline, f"nothing written: {(tmp_path / 'errors').read_text()[-2000:]}"
            time.sleep(0.001)
        time.sleep(0.001 * i)
        os.kill(writer, signal.SIGKILL)
        values = {float(value) for tensor in load_file(directory / WEIGHTS).values() for value in tensor.unique()}
        assert values in ({1.0}, {2.0})
        assert json.loads((directory / "adapter_config.json").read_text())["num_virtual_tokens"] == 2000


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "adapter_config.json"
    write_text(path, "old")

    def fail(draft, text, **_):
        draft.write_bytes(text[:2].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_card_says_first_how_to_load(tmp_path):
    saved(tmp_path)
    body = (tmp_path / "README.md").read_text().split("\n---\n", 1)[1].strip()
    assert body.startswith("This is a trained prefix") and "import prefix_peft" in body[:400]
    (tmp_path / "README.md").write_text("my own words about prefix_peft")
    saved(tmp_path)
    assert "my own words" in (tmp_path / "README.md").read_text()


def test_without_the_plugin_peft_stops_with_the_error_that_the_card_names(tmp_path):
    saved(tmp_path)
    script = "import sys, peft; peft.PeftConfig.from_pretrained(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "KeyError: 'PREFIX_KV'" in result.stderr
    assert "KeyError: 'PREFIX_KV'" in (tmp_path / "README.md").read_text()
    assert PrefixConfig().peft_type == "PREFIX_KV"
