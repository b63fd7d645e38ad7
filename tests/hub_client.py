"""Lets huggingface_hub's client of this process ask a `HubServer`, as HF_ENDPOINT would have before it was imported."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import close_session
from transformers.utils import hub as transformers_hub

from prefix_peft.__main__ import main

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
UP = {CONFIG, WEIGHTS, CARD, "prompt.json", "training_log.json"}


@contextmanager
def asking(server: HubServer, cache: Path):
    """Inside, the client is logged in there and keeps what it fetches in ``cache``."""
    with pytest.MonkeyPatch.context() as patch:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(cache),
            "HF_TOKEN_PATH": str(cache / "token"), "HF_STORED_TOKENS_PATH": str(cache / "tokens"),
            "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": server.uploads == "lfs",
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():  # fmt: skip
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", server.url)
        patch.setattr(transformers_hub, "_hf_api", None)
        patch.setenv("HF_TOKEN", "anything")
        close_session()
        yield
    close_session()


def push(release, *more, to="tester/prefix", base="openai/gpt2"):
    return main(["push", str(release), to, *(["--base-model", base] if base else []), *more])


def one_line(capsys, command):
    said = capsys.readouterr().err
    assert said.startswith(f"prefix-peft {command}: ") and said.count("\n") == 1, said
    return said


def last_line(capsys):
    """The last line; the client says before that it tries again."""
    return capsys.readouterr().err.strip().splitlines()[-1]
