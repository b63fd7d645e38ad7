# %% [markdown]
# # Quickstart
#
# A language model stays frozen, and a few thousand trained numbers to the left of its text make it speak like a sailor:
# wrap, train, write, save, load. Taken off again, they leave the model as it was, to the bit.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# The default is a tiny GPT-2 that comes with the package, so everything runs at once, offline and on a laptop. Put the
# name of any causal model here, such as `gpt2` or `Qwen/Qwen2.5-0.5B`; nothing else changes.

# %%
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefix_peft.demo.run import BASE, SEPARATOR

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

tokenizer = AutoTokenizer.from_pretrained(MODEL)
base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).to(DEVICE)

# %% [markdown]
# The task: word the record of a lighthouse as sailors do. The tiny model has never seen a lighthouse.

# %%
from prefix_peft.demo.records import pairs

record = pairs("test")[0]
print(record["source"], "\n\n  ->", record["references"][0])

# %% [markdown]
# **Wrap.** One line freezes the model and gives every attention layer ten trained keys and values to its left. What
# comes back is a `PeftModel`, as `get_peft_model` makes it.

# %%
import prefix_peft

torch.manual_seed(0)
model = prefix_peft.wrap(base, num_virtual_tokens=10)
model.print_trainable_parameters()

# %% [markdown]
# What it writes before it has learnt anything:


# %%
def write(model, source):
    prompt = tokenizer(source + SEPARATOR, return_tensors="pt").to(DEVICE)
    ids = model.eval().generate(**prompt, max_new_tokens=80, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(ids[0, prompt.input_ids.shape[1] :], skip_special_tokens=True).strip()


with model.disable_adapter():
    print(write(model, record["source"]))

# %% [markdown]
# **Train** it like any model. Only the prefix has gradients, so it can take large steps: a learning rate of 0.2 for
# so small a base, about 0.05 for others.

# %%
from functools import partial

from torch.utils.data import DataLoader

from prefix_peft.data.batches import collate, encode_pairs, padding_id

texts = [(pair["source"], pair["references"][0]) for pair in pairs("train")[:400]]
examples = encode_pairs(texts, tokenizer, is_encoder_decoder=False, separator=SEPARATOR)  # the loss is on the target
padded = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=False)
batches = DataLoader(examples, batch_size=8, shuffle=True, collate_fn=padded)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.2)

model.train()
for step, batch in enumerate(batches):
    loss = model(**{name: tensor.to(DEVICE) for name, tensor in batch.items()}).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step:3d}  loss {loss.item():.3f}")

# %% [markdown]
# **Write** again, for a record that it has not seen.

# %%
told = write(model, record["source"])
print(told)

# %% [markdown]
# **Save.** The directory holds the prefix and nothing of the base model.

# %%
from pathlib import Path

model.save_pretrained("runs/lighthouses")
for file in sorted(Path("runs/lighthouses").iterdir()):
    print(f"{file.stat().st_size / 1024:6.1f} KiB  {file.name}")

# %% [markdown]
# **Load** it onto a fresh base model: it writes the same text.

# %%
from peft import PeftModel

fresh = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).to(DEVICE)
loaded = PeftModel.from_pretrained(fresh, "runs/lighthouses")
assert write(loaded, record["source"]) == told

# %% [markdown]
# **Take it off.** The base model was never changed, so without the prefix it computes what it always did, to the bit.

# %%
prompt = tokenizer(record["source"], return_tensors="pt").to(DEVICE)
untouched = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).to(DEVICE)
with torch.no_grad(), loaded.disable_adapter():
    assert torch.equal(loaded(**prompt).logits, untouched(**prompt).logits)
print("bit for bit the base model")

# %% [markdown]
# Next: [scores and a learning curve](2_table_to_text.ipynb), [encoder-decoders](3_summarisation.ipynb), [many prefixes
# on one model](4_many_tasks_one_model.ipynb).
