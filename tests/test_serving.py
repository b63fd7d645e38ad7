"""``prefix-peft serve`` against ``generate`` behind each prefix alone."""

import asyncio
import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import prefix_peft
from prefix_peft.__main__ import main
from prefix_peft.demo.run import BASE
from prefix_peft.serving.command import _parser, by_name

REASON = "transformers' server needs fastapi, uvicorn and openai (prefix-peft[serving])"
pytest.importorskip("prefix_peft.serving.models", reason=REASON, exc_type=ImportError)
PROMPT = "name : Dreemen Peak | lit : 1661 =>"
NEW = 12
NAMES = [str(BASE), "first", "second"]


def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Two prefixes that matter, of different lengths, by name."""
    root = tmp_path_factory.mktemp("releases")
    for seed, name in enumerate(NAMES[1:]):
        tiny.fill(prefix_peft.wrap(base(), 3 + seed), seed, std=1.5).save_pretrained(root / name)
    return {name: str(root / name) for name in NAMES[1:]}


@pytest.fixture(scope="module")
def expected(releases):
    """What ``generate`` writes behind each, on a model of its own."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    texts = {}
    for name in NAMES:
        model = PeftModel.from_pretrained(base(), releases[name]) if name in releases else base()
        ids = model.generate(**prompt, max_new_tokens=NEW, do_sample=False)[0, prompt.input_ids.shape[1] :]
        texts[name] = tokenizer.decode(ids, skip_special_tokens=True)
    assert len(set(texts.values())) == 3, "the prefixes must matter"
    return texts


@pytest.fixture(scope="module")
def address(releases, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefix_peft", "serve", "--model", str(BASE), "--adapter", releases["first"]]
    command += ["--adapter", f"second={releases['second']}", "--port", str(port), "--device", "cpu"]
    command += ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "64"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            yield wait_for(f"http://localhost:{port}", server, log)
        finally:
            server.terminate()


def wait_for(address, server, log):
    """``address``, once something answers there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            ask(address, "/health")
            return address
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def ask(address, path, body=None):
    """The status and the body of what is answered."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def complete(address, **body):
    status, text = ask(address, "/v1/completions", {"prompt": PROMPT, "max_tokens": NEW, "temperature": 0} | body)
    assert status == 200, text
    return text


def test_the_base_and_its_prefixes_are_listed(address):
    models = json.loads(ask(address, "/v1/models")[1])["data"]
    assert [(model["id"], model.get("parent")) for model in models] == [
        (str(BASE), None), ("first", str(BASE)), ("second", str(BASE)),
    ]  # fmt: skip


def test_requests_at_once_are_each_answered_behind_their_own_prefix(address, expected):
    names = NAMES * 3
    with ThreadPoolExecutor(len(names)) as pool:
        answers = [json.loads(text) for text in pool.map(lambda name: complete(address, model=name), names)]
    assert [answer["choices"][0]["text"] for answer in answers] == [expected[name] for name in names]
    assert [answer["model"] for answer in answers] == names


def test_a_stream_and_a_request_that_names_no_model(address, expected):
    lines = complete(address, model="second", stream=True).splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert len(chunks) > 3
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected["second"]
    assert json.loads(complete(address))["choices"][0]["text"] == expected[str(BASE)]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/load_model"])
def test_unknown_models_are_refused_by_name(address, path):
    status, text = ask(address, path, {"model": "third"})
    assert status == 404
    assert json.loads(text)["detail"] == f"No model 'third' is served here; choose from {NAMES}."


def test_what_would_pass_the_prefix_by_is_refused(releases):
    """System One hands the model to a pipeline of its own, by this method."""
    from fastapi import HTTPException

    from prefix_peft.serving.requests import PrefixGenerationState

    with pytest.raises(HTTPException, match=r"501: .*completions, chat completions and responses only"):
        PrefixGenerationState(releases).get_manager("first").async_submit(print, "a pipeline")


def test_one_request_after_the_other(releases, expected):
    """Without continuous batching: the managers that serve the endpoints, on a thread of their own."""
    from prefix_peft.serving.models import PrefixModelManager
    from prefix_peft.serving.requests import PrefixGenerationState

    models, state = PrefixModelManager(releases, device="cpu", force_model=str(BASE)), PrefixGenerationState(releases)
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False)

    async def answers(name):
        model, tokenizer = models.load_model_and_processor(models.process_model_name(name))
        given = model, tokenizer, dict(tokenizer(PROMPT, return_tensors="pt")), config, "an id"
        yield (await state.get_manager(name).generate_non_streaming(*given))[0]
        queue, _ = state.get_manager(name).generate_streaming(*given)
        yield "".join([text async for text in until_none(queue)])

    async def until_none(queue):
        while (text := await queue.get()) is not None:
            yield text

    async def all_of(name):
        return [text async for text in answers(name)]

    for name in NAMES:
        assert asyncio.run(all_of(name)) == [expected[name]] * 2
    assert models.get_model_modality(models.load_model_and_processor("first")[0]).name == "LLM"
    models.shutdown()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["first={first}", "first={second}"], r"cannot be called 'first', as that is taken.*--adapter NAME="),
        (["the base={first}"], "cannot be called 'the base'"),
        (["__base__={first}"], "cannot be called '__base__'"),
        (["v1.5={first}"], "cannot be called 'v1.5'"),
        (["={first}"], "cannot be called ''"),
        (["{lora}"], "lora holds a LoraConfig, and no prefix"),
    ],
)
def test_impossible_adapters(releases, tmp_path, given, message):
    get_peft_model(tiny.build("llama"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    known = releases | {"lora": str(tmp_path / "lora")}
    with pytest.raises(ValueError, match=message):
        by_name([word.format(**known) for word in given], "the base")


def test_names(releases):
    first, second = releases.values()
    assert by_name([first, f"a={second}"], "the base") == {"first": first, "a": second}
    assert by_name([f"{first}/../second"], "the base") == {"second": f"{first}/../second"}


def test_the_page_does_what_it_says(releases, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    command = shlex.split(re.search(r"^prefix-peft serve (.*)", page, re.M)[1])
    monkeypatch.chdir(tmp_path)
    Path("base").symlink_to(BASE)
    copytree(releases["first"], "summaries")
    copytree(releases["second"], "runs/titles-2")
    options, others = _parser().parse_known_args(command)
    assert by_name(options.adapter, options.model) == {"summaries": "summaries", "titles": "runs/titles-2"}
    assert others == ["--continuous-batching", "--port", "8000"]
    for body in re.findall(r"-d '(.*)'", page):
        assert json.loads(body)["model"] in ("summaries", "titles")
    given = {}
    exec(re.search(r"```python\n(.*?)```", page, re.S)[1], given)
    assert len(set(given["texts"])) == 3, "each behind a prefix of its own"


def test_the_command_line_refuses_and_helps(releases, capsys):
    assert main(["serve", "--model", str(BASE), "--adapter", f"x.y={releases['first']}"]) == 2
    assert "prefix-peft serve: --adapter x.y=" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--adapter [NAME=]DIR" in shown
    assert "--cb-num-blocks" in shown
