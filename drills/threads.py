"""Eight threads that write at once behind different prefixes, on one model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peft
import torch
import transformers as tr
from torch import Tensor

import prefix_peft
from prefix_peft import PrefixConfig

from .fuzz import quiet
from .hostile.subject import SIZES
from .outcome import Outcome

HOW = """One model carries a flat prefix, one through an MLP, one with a gate and, where positions are learned, one that
shifts them. Eight threads call `generate(adapter_names=[...])` at once, each with names of its own for its rows,
`__base__` among them; the interpreter changes threads every 10 microseconds. Every token must be the one that the same
call gives alone. In the second row of a model another thread meanwhile loads, adds and deletes adapters. PEFT's own
prefix tuning takes no `adapter_names`, so each of its calls says `set_adapter` first, which belongs to the model."""
THREADS, NEW_TOKENS, SWITCH = 8, 6, 1e-5
QUICK, LONG = 64, 2_000  # calls on each model
TOKENS = {key: SIZES[key] for key in ("vocab_size", "pad_token_id", "bos_token_id")} | {"eos_token_id": None}
MODELS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: tr.GPT2LMHeadModel(
        tr.GPT2Config(n_embd=12, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5, **TOKENS)
    ),
    "Llama": lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**SIZES | {"eos_token_id": None})),
    "Bloom (by hand)": lambda: tr.BloomForCausalLM(
        tr.BloomConfig(hidden_size=12, n_layer=2, n_head=2, initializer_range=0.5, **TOKENS)
    ),
    "BART": lambda: tr.BartForConditionalGeneration(
        tr.BartConfig(
            d_model=12, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=9, decoder_ffn_dim=9, max_position_embeddings=64, init_std=0.5, decoder_start_token_id=1,
            forced_eos_token_id=None, **TOKENS,
        )
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One call: tokens (B, T), and the adapter of each row."""

    ids: Tensor
    names: list[str]


@dataclass
class Churn:
    """Loads, adds and deletes adapters until it is told to stop."""

    model: Any
    directory: Path
    stop: threading.Event = field(default_factory=threading.Event)
    faults: list[str] = field(default_factory=list)
    rounds: int = 0

    def run(self) -> None:
        """In a thread of its own."""
        config = self.model.peft_config["default"]
        while not self.stop.is_set():
            try:
                self.model.load_adapter(self.directory, "loaded")
                self.model.add_adapter("added", PrefixConfig(num_virtual_tokens=2, task_type=config.task_type))
                self.model.delete_adapter("loaded")
                self.model.delete_adapter("added")
            except Exception as error:
                self.faults.append(f"while adapters came and went: {type(error).__name__}: {error}")
                return
            self.rounds += 1


def drill(quick: bool) -> Iterator[Outcome]:
    """Two rows for each model."""
    count = QUICK if quick else LONG
    for name, build in MODELS.items():
        with quiet(), hurried(), TemporaryDirectory() as folder:
            model = prepared(build())
            model.save_pretrained(folder, selected_adapters=["default"])
            requests = make_requests(list(model.peft_config), count)
            alone = [write(model, request) for request in requests]
            yield _outcome(f"{name}: {THREADS} threads", alone, at_once(model, requests), _peer(name, build, count))
            churn = Churn(model, Path(folder))
            found = while_running(churn.run, churn.stop, lambda: at_once(model, requests))  # noqa: B023
            what = f"{name}: {THREADS} threads, while {churn.rounds} times two adapters come and go"
            yield _outcome(what, alone, found, "-", churn.faults)


def prepared(base: Any) -> Any:
    """A model with a prefix of each kind, all with numbers that matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in base.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        model = prefix_peft.wrap(base.eval(), 3)
        kind = {"task_type": model.peft_config["default"].task_type}
        model.add_adapter(
            "mlp", PrefixConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=7, **kind)
        )
        model.add_adapter("gated", PrefixConfig(num_virtual_tokens=4, gate=True, **kind))
        if hasattr(base.config, "n_positions") or base.config.is_encoder_decoder:
            model.add_adapter("shifted", PrefixConfig(num_virtual_tokens=6, position_mode="shift", **kind))
        for name, parameter in model.named_parameters():
            if "prefix_kv_encoder" in name:
                torch.nn.init.normal_(parameter, std=1.0)
    return model.eval()


def make_requests(adapters: Sequence[str], count: int) -> list[Request]:
    """Of one to three rows, with equal and with different adapters."""
    generator = torch.Generator().manual_seed(0)
    names = [*adapters, "__base__"]
    found = []
    for i in range(count):
        rows = 1 + i % 3
        ids = torch.randint(3, SIZES["vocab_size"], (rows, 4 + i % 5), generator=generator)
        found.append(Request(ids, [names[(i + row * (i // 7)) % len(names)] for row in range(rows)]))
    return found


@torch.no_grad()
def write(model: Any, request: Request) -> Tensor:
    """What the model writes, greedily."""
    ids, mask = request.ids, torch.ones_like(request.ids)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return model.generate(input_ids=ids, attention_mask=mask, adapter_names=request.names, **options)


def at_once(model: Any, requests: Sequence[Request]) -> list[Tensor | Exception]:
    """All requests, by `THREADS` threads."""

    def one(request: Request) -> Tensor | Exception:
        try:
            return write(model, request)
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, requests))


def while_running(run: Callable[[], None], stop: threading.Event, work: Callable[[], Any]) -> Any:
    """``work()``, while another thread runs ``run`` until it is told to stop."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        return work()
    finally:
        stop.set()
        thread.join()


@contextmanager
def hurried() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(SWITCH)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        torch.set_num_threads(threads)


def _outcome(
    what: str, alone: Sequence[Tensor], found: Sequence[Tensor | Exception], peer: str, more: Sequence[str] = ()
) -> Outcome:
    faults = [
        f"call {i}: {type(now).__name__}: {now}" if isinstance(now, Exception) else f"call {i} wrote other tokens"
        for i, (now, then) in enumerate(zip(found, alone, strict=True))
        if isinstance(now, Exception) or not torch.equal(now, then)
    ]
    held = 0 if more else len(alone) - len(faults)
    return Outcome(what, "the tokens of each call alone", len(alone), held, peer, (*more, *faults)[:5])


def _peer(name: str, build: Callable[[], Any], count: int) -> str:
    """PEFT's own prefix tuning with two adapters; each call sets its own before it writes."""
    model = None
    try:
        kind = "SEQ_2_SEQ_LM" if name == "BART" else "CAUSAL_LM"
        config = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=kind)
        model = peft.get_peft_model(build().eval(), config)
        model.add_adapter("other", config)
        for parameter in model.prompt_encoder.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
        return _raced(model.eval(), count)
    except Exception as error:
        return f"does not run: {type(error).__name__}"


def _raced(model: Any, count: int) -> str:
    requests = make_requests(["default", "other"], count)

    @torch.no_grad()
    def one(request: Request) -> Tensor | Exception:
        ids = request.ids
        try:
            model.set_adapter(request.names[0].replace("__base__", "other"))
            return model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip
        except Exception as error:
            return error

    alone = [one(request) for request in requests]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(one, requests))
    broken = next((result for result in alone if isinstance(result, Exception)), None)
    if broken is not None:
        return f"fails alone: {type(broken).__name__}"
    failed = sum(isinstance(now, Exception) for now in found)
    wrong = sum(isinstance(now, Tensor) and not torch.equal(then, now) for then, now in zip(alone, found, strict=True))
    return f"`set_adapter` before each call: {wrong} of {count} wrong" + (f", {failed} failed" if failed else "")
