# %% [markdown]
# # The Hub
#
# A prefix is a small file, and its name is enough to load it. You will train one, look at the model card that it got,
# publish it as a private repository of yours, load it from there, keep a second version on a branch, and fetch one as
# somebody would who does not trust you.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# Everything that is yours to choose. The default model comes with the package; any causal model of the Hub will do,
# such as `gpt2` or `Qwen/Qwen2.5-0.5B`. The repositories are made under your own name, and private.

# %%
import os
from pathlib import Path

from prefix_peft.demo.run import BASE, SEPARATOR

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
REPOSITORY = os.environ.get("PREFIX_PEFT_REPOSITORY", "prefix-peft-lighthouses")
RUNS = Path("runs/hub")

# %% [markdown]
# **Log in**, with a token that may write, from https://huggingface.co/settings/tokens.

# %%
from huggingface_hub import get_token, login, whoami

if get_token() is None:
    login()
me = whoami()["name"]
repository = REPOSITORY if "/" in REPOSITORY else f"{me}/{REPOSITORY}"

# %% [markdown]
# A prefix is loaded onto its base model, which others must be able to find. One that lies in a directory of this
# machine goes to the Hub first; `gpt2` is there.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

if Path(MODEL).is_dir():
    model_id = f"{me}/prefix-peft-demo-base"
    AutoModelForCausalLM.from_pretrained(MODEL).push_to_hub(model_id, private=True)
    AutoTokenizer.from_pretrained(MODEL).push_to_hub(model_id, private=True)
else:
    model_id = MODEL

# %% [markdown]
# **Train** for a moment, and **evaluate** with `--card`: what was measured, and a few samples, go into the model card.
# `main` is the command `prefix-peft`, so these lines are what you would type in a terminal.

# %%
from prefix_peft.__main__ import main
from prefix_peft.demo.run import write_data

data, prefix = write_data(RUNS / "data"), RUNS / "lighthouses"
files = ["--model", model_id, "--train-file", str(data["train"]), "--validation-file", str(data["validation"])]
settings = ["--separator", SEPARATOR, "--num-virtual-tokens", "10", "--max-steps", "80", "--learning-rate", "0.2"]
assert main(["train", *files, *settings, "--output-dir", str(prefix)]) == 0
# %%
judged = ["--adapter", str(prefix), "--data-file", str(data["test"]), "--max-samples", "24", "--num-beams", "1"]
assert main(["evaluate", "--model", model_id, *judged, "--card"]) == 0

# %% [markdown]
# **The card** has written itself: how to load the prefix, what it is, what it scored and what it writes. Above its text
# are the metadata that the Hub reads. Edit it as you like: from then on it is yours, and nothing writes over it.

# %%
print((prefix / "README.md").read_text(encoding="utf-8"))

# %% [markdown]
# **Publish.** Only the prefix, its config, its card and what belongs to them go up.

# %%
assert main(["push", str(prefix), repository, "--private", "--license", "apache-2.0"]) == 0

# %% [markdown]
# **Load** it by its name, as anybody would whom you let see it. That is PEFT; only `import prefix_peft` comes first.

# %%
from peft import AutoPeftModelForCausalLM

import prefix_peft  # noqa: F401
from prefix_peft.demo.records import pairs

tokenizer = AutoTokenizer.from_pretrained(model_id)


def write(model, source):
    prompt = tokenizer(source + SEPARATOR, return_tensors="pt")
    ids = model.eval().generate(**prompt, max_new_tokens=60, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(ids[0, prompt.input_ids.shape[1] :], skip_special_tokens=True).strip()


model = AutoPeftModelForCausalLM.from_pretrained(repository)
record = pairs("test")[0]["source"]
print(record, "\n\n  ->", write(model, record))

# %% [markdown]
# **A second version** goes to a branch. `push_to_hub` is PEFT's as well, and what it sends is what `prefix-peft push`
# sends. Here it is the same prefix in half the bytes.

# %%
model.peft_config["default"].release_dtype = "bfloat16"
model.push_to_hub(repository, revision="half", commit_message="The same in bfloat16")
half = AutoPeftModelForCausalLM.from_pretrained(repository, revision="half")
print(write(half, record))

# %% [markdown]
# **Fetch** one into a directory. What comes is looked at before anything is written: safetensors alone, whole, of a
# prefix. So this is how to begin with one that you do not know.

# %%
assert main(["pull", repository, str(RUNS / "fetched"), "--revision", "half", "--force"]) == 0

# %% [markdown]
# Share it: make the repositories public in their settings. Or take them away again: `hf repos delete NAME`.
#
# Next: [`docs/hub.md`](../docs/hub.md) has the rest: pull requests, subfolders, and what is refused and why.
