"""Files that somebody else wrote: nothing of them runs, none leads elsewhere, and no refusal leaves a trace."""

import json
import os
import pickle
import shutil
import sys
from contextlib import contextmanager

import peft
import pytest
import tiny
import torch
from safetensors.torch import load, save_file
from test_training import folder  # noqa: F401  (a fixture)

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.__main__ import main
from prefix_peft.commands.models import recall_separator

WEIGHTS, CONFIG, PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def release(path, family="llama", **config):
    model = tiny.fill(prefix_peft.wrap(tiny.build(family), 3))
    model.save_pretrained(path)
    change(path, **config)
    return path


def change(path, **config):
    file = path / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


def tensors_of(path):
    return load((path / WEIGHTS).read_bytes())  # not mapped: the file is written again


def by_peft(base, path, **kwargs):
    return peft.PeftModel.from_pretrained(base, path, **kwargs)


def by_peft_with_a_config(base, path, **kwargs):
    config = PrefixConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    return peft.PeftModel.from_pretrained(base, path, "default", False, config, **kwargs)


def by_load_adapter(base, path, **kwargs):
    model = prefix_peft.wrap(base, 3)
    with untouched(model):
        model.load_adapter(path, "second", **kwargs)


def into_an_adapter(base, path, **kwargs):
    model = prefix_peft.wrap(base, 3)
    with untouched(model):
        model.load_adapter(path, "default", **kwargs)


def by_transformers(base, path, **kwargs):
    base.load_adapter(str(path), adapter_kwargs=kwargs)


def by_transformers_as_a_pickle(base, path, **kwargs):
    base.load_adapter(str(path), adapter_kwargs=kwargs, use_safetensors=False)


def by_transformers_with_a_config(base, path, **kwargs):
    base.load_adapter(str(path), peft_config=PrefixConfig(num_virtual_tokens=3), adapter_kwargs=kwargs)


LOADERS = [
    by_peft, by_peft_with_a_config, by_load_adapter, into_an_adapter, by_transformers, by_transformers_as_a_pickle,
    by_transformers_with_a_config,
]  # fmt: skip


def state(model):
    modules = {name: (type(m), list(m._forward_pre_hooks.values()), m.training) for name, m in model.named_modules()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    return modules, flags, sorted(getattr(model, "peft_config", {}))


@contextmanager
def untouched(model):
    """What is raised inside leaves every module, hook, flag and number as it was."""
    before, numbers = state(model), {key: value.clone() for key, value in model.state_dict().items()}
    try:
        yield
    except Exception:
        assert state(model) == before
        assert all(torch.equal(value, numbers[key]) for key, value in model.state_dict().items())
        raise


def refused(load, path, message, error=ValueError, **kwargs):
    base = tiny.build("llama")
    before, numbers = state(base), {key: value.clone() for key, value in base.state_dict().items()}
    with pytest.raises(error, match=message):
        load(base, path, **kwargs)
    if load not in (by_load_adapter, into_an_adapter):  # these look for themselves
        assert state(base) == before
        assert all(torch.equal(value, numbers[key]) for key, value in base.state_dict().items())


def as_bin(path, trap):
    (path / WEIGHTS).unlink()
    torch.save(trap, path / PICKLE)


def as_plain_pickle(path, trap):
    (path / WEIGHTS).unlink()
    (path / PICKLE).write_bytes(pickle.dumps(trap))


def with_the_wrong_name(path, trap):
    (path / WEIGHTS).write_bytes(pickle.dumps(trap))


def as_an_archive_with_the_wrong_name(path, trap):
    torch.save(trap, path / WEIGHTS)


@pytest.mark.parametrize("subfolder", [None, "sub"])
@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("disguise", [as_bin, as_plain_pickle, with_the_wrong_name, as_an_archive_with_the_wrong_name])
def test_no_pickle_is_ever_opened(disguise, load, subfolder, tmp_path):
    path, trap = release(tmp_path / "release" / (subfolder or "")), Trap(tmp_path / "sprung")
    disguise(path, trap)
    before = {file: os.stat(file).st_atime_ns for file in path.iterdir()}
    message = "would be a pickle" if disguise in (as_bin, as_plain_pickle) else "is no whole safetensors file"
    refused(load, tmp_path / "release", message, **({"subfolder": subfolder} if subfolder else {}))
    assert not (tmp_path / "sprung").exists()
    assert before[path / PICKLE] == os.stat(path / PICKLE).st_atime_ns if (path / PICKLE).exists() else True


def test_a_pickle_beside_the_weights_is_not_read_instead(tmp_path):
    path = release(tmp_path / "release")
    torch.save(Trap(tmp_path / "sprung"), path / PICKLE)
    refused(by_transformers_as_a_pickle, path, "use_safetensors=False asks for .*'s pickle")
    for loader in (by_peft, by_transformers):
        loader(tiny.build("llama"), path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("load", LOADERS)
def test_weights_that_are_not_there_are_missed_before_anything_changes(load, tmp_path):
    path = release(tmp_path)
    (path / WEIGHTS).unlink()
    refused(load, path, "holds no adapter_model.safetensors to load")
    assert PrefixConfig.from_pretrained(path).num_virtual_tokens == 3, "a config alone is a config"
    (path / WEIGHTS).mkdir()
    refused(load, path, "is no file")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("load", [by_peft, by_load_adapter, into_an_adapter, by_transformers])
def test_a_link_that_leads_out_is_not_followed(load, name, tmp_path):
    path = release(tmp_path / "release")
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    refused(load, path, "leads out of .*/release, to .*/elsewhere: a release is read from its own directory alone")
    (path / name).unlink()
    (tmp_path / "elsewhere").rename(path / name)
    refused(load, release(tmp_path / "whole"), "leads out of", subfolder="../release")


def test_links_inside_and_to_the_directory_are_followed(tmp_path):
    path = release(tmp_path / "release" / "real")
    (tmp_path / "release" / "named").symlink_to("real")
    (tmp_path / "link").symlink_to("release")
    by_peft(tiny.build("llama"), path.parent / "named")
    by_peft(tiny.build("llama"), tmp_path / "link", subfolder="named")


def test_the_hubs_cache_is_made_of_links(tmp_path, monkeypatch):
    """As ``hf_hub_download`` leaves it: snapshots/REVISION/FILE -> ../../blobs/HASH."""
    whole, repository = release(tmp_path / "whole"), tmp_path / "cache" / "models--some--prefix"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in whole.iterdir():
        shutil.copy(file, repository / "blobs" / f"hash-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-{file.name}")
    by_peft(tiny.build("llama"), snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    by_peft(tiny.build("llama"), "some/prefix", cache_dir=tmp_path / "cache", local_files_only=True)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [(dtype, f"is torch.{dtype}; a prefix is written in one of")
     for dtype in ("float64", "int64", "uint8", "bool", "complex64", "float8_e4m3fn")],
)  # fmt: skip
def test_numbers_of_another_kind_are_refused(dtype, message, tmp_path):
    path = release(tmp_path)
    save_file({key: value.to(getattr(torch, dtype)) for key, value in tensors_of(path).items()}, path / WEIGHTS)
    refused(by_peft, path, message)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_prefix_of_numbers_that_are_none_is_refused(number, tmp_path):
    path = release(tmp_path)
    tensors = tensors_of(path)
    list(tensors.values())[-1][1, 2, 3] = number
    save_file(tensors, path / WEIGHTS)
    refused(into_an_adapter, path, "holds NaN or infinity")


def test_embeddings_come_along_in_their_shape_only(tmp_path):
    path, name = release(tmp_path), "base_model.model.model.embed_tokens.weight"
    base = tiny.build("llama")
    embeddings = torch.ones_like(base.get_input_embeddings().weight)
    whole = tensors_of(path)
    save_file(whole | {name: embeddings}, path / WEIGHTS)
    loaded = by_peft(base, path)
    assert torch.equal(loaded.get_input_embeddings().weight, embeddings), "as PEFT saves them with new words"
    save_file(whole | {name: embeddings[1:]}, path / WEIGHTS)
    refused(by_peft, path, r"embed_tokens.weight is \(96, 42\) in the file, the model needs \(97, 42\)")
    save_file(whole | {"base_model.model.lm_head.weight": embeddings}, path / WEIGHTS)
    change(path, modules_to_save=["lm_head", "norm"])
    refused(by_peft, path, r"missing base_model.model.model.norm.weight \(42,\)")


def test_nothing_that_a_release_names_is_fetched(tmp_path, monkeypatch):
    """Loaded to train on, a prefix that asks for words needs none: it is in the file."""
    path = release(tmp_path, init_text="words", tokenizer_name_or_path="../../etc", revision="x", auto_mapping={"a": 1})
    for name in ("prefix_peft.initialize.AutoTokenizer", "transformers.AutoModelForCausalLM"):
        monkeypatch.setattr(f"{name}.from_pretrained", lambda *_, **__: pytest.fail("something was fetched"))
    loaded = by_peft(tiny.build("llama"), path, is_trainable=True)
    assert sorted(p.sum().item() for p in tiny.prefix_parameters(loaded).values()) == sorted(
        tensor.sum().item() for tensor in tensors_of(path).values()
    )


def test_no_module_that_a_release_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    mapping = {"base_model_class": "system", "parent_library": "trap_module"}
    path = release(tmp_path / "release", task_type=None, auto_mapping=mapping)
    with pytest.raises(ValueError, match=r"trap_module.* is not in the import allowlist"):
        peft.AutoPeftModel.from_pretrained(path)
    by_peft(tiny.build("llama"), path)
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize("name", ["a.b", "../up", "/etc/x", "\\x"])
def test_a_name_that_is_no_name_is_refused(name):
    base = tiny.build("llama")
    with untouched(base), pytest.raises(ValueError, match="an adapter cannot be called"):
        peft.get_peft_model(base, PrefixConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), adapter_name=name)


def test_the_command_line_runs_nothing_of_a_repository(folder, tmp_path, capsys):  # noqa: F811
    base = tmp_path / "base"
    shutil.copytree(folder / "gpt2", base)
    mark = tmp_path / "sprung"
    (base / "trap.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\n")
    given = json.loads((base / "config.json").read_text())
    trapped = {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Config"}}
    (base / "config.json").write_text(json.dumps(given | trapped))
    argv = ["generate", "--model", str(base), "--adapter", str(tmp_path), "--prompt", "x"]
    assert main(argv) == 2 and "trust_remote_code" in capsys.readouterr().err
    (base / "config.json").write_text(json.dumps(given))
    (base / "model.safetensors").unlink()
    torch.save(Trap(mark), base / "pytorch_model.bin")
    assert main(argv) == 2 and "safetensors" in capsys.readouterr().err
    assert not mark.exists()


def test_a_prompt_file_is_looked_at(tmp_path):
    file = tmp_path / "release" / "prompt.json"
    file.parent.mkdir()
    for text, message in (("[1]", "must hold a JSON object"), ('{"separator": [1]}', "has separator=.* must be text")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            recall_separator(str(file.parent), None)
        assert recall_separator(str(file.parent), "=>") == "=>"
    file.write_text("{}")
    assert recall_separator(str(file.parent), None) is None
    file.rename(tmp_path / "away.json")
    file.symlink_to(tmp_path / "away.json")
    with pytest.raises(ValueError, match="leads out of"):
        recall_separator(str(file.parent), None)
