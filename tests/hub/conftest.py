"""A Hub to push to and to pull from, and something to push."""

import pytest
import tiny
from hub_client import asking
from hub_server import HubServer
from transformers import GPT2LMHeadModel

import prefix_peft


@pytest.fixture(params=["regular", "lfs"])
def hub(request, tmp_path):
    with HubServer(request.param) as server, asking(server, tmp_path / "cache"):
        yield server


@pytest.fixture
def plain_hub(tmp_path):
    with HubServer() as server, asking(server, tmp_path / "cache"):
        yield server


@pytest.fixture
def copied_base(tmp_path):
    """A directory with a base model, as somebody has it who copied it from the Hub."""
    tiny.build("gpt2").save_pretrained(tmp_path / "my-gpt2")
    return tmp_path / "my-gpt2"


@pytest.fixture
def release(tmp_path, copied_base):
    """What a run leaves behind: the prefix, and much that is nobody else's business."""
    path = tmp_path / "my-prefix"
    model = prefix_peft.wrap(GPT2LMHeadModel.from_pretrained(copied_base), 3, tokenizer_name_or_path=str(copied_base))
    tiny.fill(model).save_pretrained(path)
    (path / "prompt.json").write_text('{"separator": " =>"}\n')
    (path / "training_log.json").write_text('{"step": 3, "seconds": 1.5, "log": []}')
    (path / "checkpoint-2").mkdir()
    for junk in ("checkpoint-2/training_state.safetensors", "optimizer.pt", "samples.jsonl", "nonfinite.jsonl"):
        (path / junk).write_text("private")
    (path / "notes.txt").symlink_to("/etc/hostname")
    return path
