# %% [markdown]
# # Many tasks, one model
#
# Three prefixes teach one frozen model three ways to speak of a record. You will see rows of one batch answered each in
# its own way, the bare model among them, and a queue of mixed requests served by continuous batching.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# Any causal model will do, for instance `gpt2` or `Qwen/Qwen2.5-0.5B`. The default comes with the package.

# %%
import os
from pathlib import Path

import torch

from prefix_peft.demo.run import BASE, SEPARATOR

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RUNS = Path("runs/many-tasks")

# %% [markdown]
# **Three tasks** on the same records of people, rivers, songs ...: tell it in prose, make a headline, let two people
# talk.

# %%
import json
from random import Random

from prefix_peft.demo import wording
from prefix_peft.demo.kinds import KINDS

TASKS = {"prose": wording.wording, "headline": wording.headline, "dialogue": wording.dialogue}


def examples(task, count, seed):
    """Lines such as `{"source": "name : Orla Venn | born : 1912", "target": "Orla Venn was born in 1912."}`."""
    rng = Random(seed)
    for _ in range(count):
        kind = rng.choice(KINDS)
        record = kind.draw(rng)
        yield {"source": wording.as_line(record), "target": TASKS[task](kind, record, rng)}


for task in TASKS:
    print(f"{task:<9}", *next(examples(task, 1, seed=0)).values(), sep="\n  ")

# %% [markdown]
# **Train** a prefix for each, one after the other, as three people on three machines would. None knows of the others.

# %%
from prefix_peft.commands.arguments import TrainArguments
from prefix_peft.training.train import train

for task in TASKS:
    (RUNS / task).mkdir(parents=True, exist_ok=True)
    data = RUNS / task / "train.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples(task, 240, seed=1)))
    arguments = TrainArguments(
        model=MODEL,
        train_file=str(data),
        output_dir=str(RUNS / task),
        separator=SEPARATOR,
        num_virtual_tokens=8,
        learning_rate=0.2,
        scale_parameter=False,
        num_train_epochs=1,
        logging_steps=1,
    )
    trained = train(arguments)
    trained.model.print_trainable_parameters()
    print(f"loss {trained.progress.log[0]['loss']:.2f} -> {trained.progress.log[-1]['loss']:.2f}")

# %% [markdown]
# **One model, three prefixes.** Each is another adapter of one PEFT model; together they weigh less than a photograph.

# %%
from peft import PeftModel

import prefix_peft
from prefix_peft.commands.models import load_base
from prefix_peft.commands.report import sites_table

base, tokenizer = load_base(MODEL)
model = PeftModel.from_pretrained(base.to(DEVICE), RUNS / "prose", adapter_name="prose")
for task in ("headline", "dialogue"):
    model.load_adapter(RUNS / task, adapter_name=task)
print(sites_table(prefix_peft.inspect(model)))

# %% [markdown]
# **One batch, four answers.** `adapter_names` says for each row which prefix it has; `__base__` is the model without
# any. One pass through the model serves all rows.

# %%
names = [*TASKS, "__base__"]
source = next(examples("prose", 1, seed=2))["source"]
prompt = tokenizer([source + SEPARATOR] * len(names), return_tensors="pt").to(DEVICE)
greedy = {"max_new_tokens": 60, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
ids = model.generate(**prompt, adapter_names=names, **greedy)[:, prompt.input_ids.shape[1] :]

print(source)
for name, text in zip(names, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
    print(f"  {name:<9} {text.strip()}")

# %% [markdown]
# Each row is what its prefix writes alone. (PEFT's own prefix tuning ignores `adapter_names` without a word.)

# %%
prompt = tokenizer(source + SEPARATOR, return_tensors="pt").to(DEVICE)
for name, row in zip(TASKS, ids, strict=False):
    model.set_adapter(name)
    (alone,) = model.generate(**prompt, **greedy)[:, prompt.input_ids.shape[1] :]
    assert torch.equal(row[: len(alone)], alone), name
print("all rows as alone")

# %% [markdown]
# **A queue of requests**, of all lengths and for all prefixes, is what a server has. transformers' continuous batching
# packs them into steps of so many tokens, whichever request they belong to; a finished one makes room for the next.

# %%
import time

from transformers import ContinuousBatchingConfig, GenerationConfig

requests = [(name, next(examples("prose", 1, seed=10 + i))["source"]) for i in range(8) for name in TASKS]
prompts = [tokenizer(source + SEPARATOR).input_ids for _, source in requests]
settings = GenerationConfig(**greedy, eos_token_id=tokenizer.eos_token_id)

began = time.perf_counter()
results = model.generate_batch(
    prompts,
    adapter_names=[name for name, _ in requests],
    generation_config=settings,
    continuous_batching_config=ContinuousBatchingConfig(num_blocks=128, max_batch_tokens=256),
)
together = time.perf_counter() - began
answers = [tokenizer.decode(r.generated_tokens, skip_special_tokens=True).strip() for r in results.values()]
for (name, source), answer in list(zip(requests, answers, strict=True))[:6]:
    print(f"{name:<9} {source}\n          {answer}\n")

# %% [markdown]
# The same requests one by one, each after switching to its prefix:

# %%
began, same = time.perf_counter(), 0
for (name, _), ids, answer in zip(requests, prompts, answers, strict=True):
    model.set_adapter(name)
    written = model.generate(torch.tensor([ids], device=DEVICE), generation_config=settings)[0, len(ids) :]
    same += tokenizer.decode(written, skip_special_tokens=True).strip() == answer
one_by_one = time.perf_counter() - began
print(f"{len(requests)} requests: together {together:.1f} s, one by one {one_by_one:.1f} s; {same} texts are the same")
assert same >= len(requests) - 1  # sums in another order may decide a tie in another way
