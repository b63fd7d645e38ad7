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
from prefix_peft.training.arguments import TrainArguments
from prefix_peft.training.report import scores_table
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
            max_steps=80,
            eval_steps=80,
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
from prefix_peft.demo.records import pairs
from prefix_peft.inside import attention_mass
from prefix_peft.inside.tables import masses_table
from prefix_peft.training.models import load_prefix

model, tokenizer = load_prefix(MODEL, str(RUNS / "one"))
pair = min(pairs("test"), key=lambda pair: len(pair["source"]))
masses = attention_mass(model, tokenizer, pair["source"], pair["references"][0], SEPARATOR)
print(masses_table(masses).in_markdown())

# %% [markdown]
# Above, which heads look at it, and at which of its virtual tokens. Below, when: the first tokens see little else, what
# follows has the text as well. In the heads that copy, names and numbers of the record take over.

# %%
from IPython.display import Image

from prefix_peft.inside.heatmap import maps_of_masses, maps_of_norms
from prefix_peft.inside.picture import draw

draw("Attention to the prefix", maps_of_masses(masses), RUNS / "attention.png")
Image(RUNS / "attention.png")

# %% [markdown]
# The same numbers are tensors, for questions of your own: `weights` has the shape (heads, tokens, virtual tokens).
# Which tokens lean on the prefix most, in the last layer?

# %%
import torch

last = masses.of_role("decoder")[-1]
words = masses.texts["decoder"]
assert last.weights.shape == (last.heads.numel(), len(words), 8)
for share, place in zip(*torch.topk(last.tokens, 5), strict=True):
    print(f"{100 * share:5.1f} %  at {words[place]!r}, behind {''.join(words[max(0, place - 6) : place])!r}")

# %% [markdown]
# **Words.** At the first layer each word has one key and one value, so a virtual token can be compared with all words
# of the vocabulary. A prefix that has just been started from words gives these words back.

# %%
import prefix_peft
from prefix_peft.inside import nearest_words
from prefix_peft.inside.tables import words_table
from prefix_peft.training.models import load_base

fresh = prefix_peft.wrap(
    load_base(MODEL)[0], num_virtual_tokens=8, init_text="The lighthouse winks at sailors by night"
)
print(words_table(nearest_words(fresh, tokenizer, 3)).in_markdown())

# %% [markdown]
# A trained one has gone where there are no words: its nearest are hardly nearer than the median word. Reading a prefix
# as if it were a prompt would be a mistake.

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
# And as pictures: the norms of the keys and values of both.

# %%
draw("Prefix one", maps_of_norms(one), RUNS / "norms.png")
Image(RUNS / "norms.png")

# %% [markdown]
# The command line shows all this in a terminal, or writes it as one page of HTML:
#
# ```sh
# prefix-peft inspect --adapter one --compare two --model gpt2 --text "name : Ada" --words 5 --html ada.html
# ```
