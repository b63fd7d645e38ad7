# %% [markdown]
# # Looking inside a prefix
#
# A prefix is a handful of keys and values, so one can see what a model does with it. You will see how much attention
# each layer, head and token pays to it, which words it is near to, and how two prefixes for one task compare.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# The default model is the package's own; `gpt2` and `Qwen/Qwen2.5-0.5B` have more layers to look at.

# %%
import os
from pathlib import Path

from prefix_peft.demo.run import BASE, LEARNING_RATE, SEPARATOR, write_data

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
RUNS = Path("runs/looking-inside")

# %% [markdown]
# Two prefixes for one task, the lighthouses of the other notebooks. They differ by their seed, so by their start and by
# the order of the data.

# %%
from prefix_peft.commands.arguments import TrainArguments
from prefix_peft.commands.report import scores_table
from prefix_peft.training.train import train

files = write_data(RUNS / "data")
losses = {}
for name, seed in (("one", 1), ("two", 2)):
    trained = train(
        TrainArguments(
            model=MODEL,
            train_file=str(files["train"]),
            validation_file=str(files["validation"]),
            output_dir=str(RUNS / name),
            separator=SEPARATOR,
            num_virtual_tokens=8,
            learning_rate=LEARNING_RATE,
            scale_parameter=False,
            max_steps=60,
            eval_steps=60,
            seed=seed,
        )
    )
    trained.model.print_trainable_parameters()
    measured = [entry["validation_loss"] for entry in trained.progress.log if "validation_loss" in entry]
    losses[name] = {"loss before": measured[0], "loss after": measured[-1]}
print(scores_table(losses))

# %% [markdown]
# **The files** alone tell how it was trained and how large its keys and values have grown. No model is needed for that.

# %%
from prefix_peft.inside import read_release
from prefix_peft.inside.tables import facts_table, norms_table

one, two = (read_release(str(RUNS / name)) for name in ("one", "two"))
print(facts_table(one).in_markdown(), norms_table(one).in_markdown(), sep="\n\n")

# %% [markdown]
# **Attention.** The model reads a record and its wording; each token of it divides its attention among the prefix and
# the tokens before. What the prefix gets is exact, taken from the same softmax.

# %%
from prefix_peft.commands.models import load_prefix
from prefix_peft.demo.records import pairs
from prefix_peft.inside import attention_mass
from prefix_peft.inside.tables import masses_table

model, tokenizer = load_prefix(MODEL, str(RUNS / "one"))
pair = min(pairs("test"), key=lambda pair: len(pair["source"]))
masses = attention_mass(model, tokenizer, pair["source"], pair["references"][0], SEPARATOR)
print(masses_table(masses).in_markdown())

# %% [markdown]
# As pictures: in which heads, at which virtual tokens, and when.

# %%
from IPython.display import Image

from prefix_peft.inside.heatmap import maps_of_masses, maps_of_norms
from prefix_peft.inside.picture import draw

draw("Attention to the prefix", maps_of_masses(masses), RUNS / "attention.png")
Image(RUNS / "attention.png")

# %% [markdown]
# Look at the last layer behind `=>`, where the wording begins: mostly darker where the sailors' idiom is spoken, and
# paler where names and numbers are copied from the record. The same numbers are tensors, so this can be counted:
# `weights` has the shape (heads, tokens, virtual tokens), and the attention at a token decides about the next one.

# %%
import torch

last, words = masses.of_role("decoder")[-1], masses.texts["decoder"]
assert last.weights.shape == (len(last.heads), len(words), 8)

arrow = len(tokenizer(pair["source"] + SEPARATOR).input_ids) - 1  # the last token of the prompt
copied = torch.tensor([word in words[:arrow] for word in words[arrow + 1 :]])
shares = 100 * last.tokens[arrow:-1]
print(f"attention to the prefix before a word of the record   {shares[copied].mean():4.1f} %")
print(f"attention to the prefix before a word of the idiom    {shares[~copied].mean():4.1f} %")

# %% [markdown]
# The words at which the last layer leans on the prefix most:

# %%
for place in shares.argsort(descending=True)[:6].tolist():
    before = "".join(words[max(0, place + arrow - 6) : place + arrow + 1])
    print(f"{shares[place]:5.1f} %  {before} -> {words[place + arrow + 1]}")

# %% [markdown]
# **Words.** At the first layer each word has one key and one value, so a virtual token can be compared with all words
# of the vocabulary. A prefix that has just been started from words gives these words back.

# %%
import prefix_peft
from prefix_peft.commands.models import load_base
from prefix_peft.inside import nearest_words
from prefix_peft.inside.tables import words_table

fresh = prefix_peft.wrap(
    load_base(MODEL)[0], num_virtual_tokens=8, init_text="The lighthouse winks at sailors by night"
)
print(words_table(nearest_words(fresh, tokenizer, 3)).in_markdown())

# %% [markdown]
# A trained one has left the words behind: its nearest are far from 1. They may hint at where it has gone, but it is no
# prompt that could be read, and deeper layers, which do most of the work, are not seen here.

# %%
print(words_table(nearest_words(model, tokenizer, 3)).in_markdown())

# %% [markdown]
# **Two prefixes compared.** They do the same and differ as vectors: the task leaves a prefix much freedom. Attention
# knows no order of virtual tokens, so for each the nearest of the other is looked for as well.

# %%
from prefix_peft.inside import compare
from prefix_peft.inside.tables import comparison_tables

comparison = compare(one, two)
print("\n\n".join(table.in_markdown() for table in comparison_tables(comparison, "one", "two")))

# %% [markdown]
# How large their keys and values have become, by layer and virtual token:

# %%
from dataclasses import replace

norms = [
    replace(heat, title=f"{heat.title}, {name}")
    for name, release in (("one", one), ("two", two))
    for heat in maps_of_norms(release)
]
draw("Two prefixes for one task", norms, RUNS / "norms.png")
Image(RUNS / "norms.png")

# %% [markdown]
# The command line shows all this in a terminal, or writes it as one page of HTML:
#
# ```sh
# prefix-peft inspect --adapter one --compare two --model gpt2 --text "name : Ada" --words 5 --html ada.html
# ```
