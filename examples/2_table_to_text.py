# %% [markdown]
# # From tables to text
#
# Records become sentences, the task for which prefix-tuning was invented ([Li & Liang
# 2021](https://aclanthology.org/2021.acl-long.353)). You will see how a record is written down for a model, a run of
# the package's own training with its learning curve, BLEU with and without the prefix, and what both write.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# The tiny base model of the package runs anywhere. `gpt2-medium` and `gpt2-large` are the paper's; with them, halve the
# learning rate and train longer. Everything is written to `runs/`.

# %%
import os
from pathlib import Path

from prefix_peft.demo.run import BASE, LEARNING_RATE, SEPARATOR, write_data

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
STEPS = 120
RUN = Path("runs/table-to-text")

# %% [markdown]
# **The data** are lines of JSON: a source, and every text that is a right answer to it. Here they are lighthouses, made
# up on the spot. Your own file looks the same; `TrainArguments(task="e2e")`, `"webnlg"` or `"dart"` takes the paper's
# data sets from the Hub (`prefix-peft[hub]`).

# %%
from prefix_peft.data.tasks import read_jsonl

files = write_data(RUN / "data")
test = read_jsonl(files["test"])
record = max(test, key=lambda record: len(record.references))
print(record.source, *record.references, sep="\n  -> ")

# %% [markdown]
# **The linearisation.** A record is written as `attribute : value | attribute : value`, as in the paper's code. Source
# and target are one text to a decoder; the loss is on the target alone, which is shown between ⟦ and ⟧.

# %%
from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import encode_pairs

base, tokenizer = load_base(MODEL)
texts = [(record.source, record.references[0])]
(example,) = encode_pairs(texts, tokenizer, is_encoder_decoder=False, separator=SEPARATOR).examples
prompt = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label < 0]
target = [label for label in example["labels"] if label >= 0]
print(f"{tokenizer.decode(prompt)}⟦{tokenizer.decode(target)}⟧")
print(f"{len(prompt)} tokens are read, {len(target)} are learnt")

# %% [markdown]
# **Training** is one call, the same as `prefix-peft train` on the command line: AdamW on the prefix, a learning rate
# that rises and falls, validation on the way, checkpoints if you want them.

# %%
from prefix_peft.commands.arguments import TrainArguments
from prefix_peft.training.train import train

trained = train(
    TrainArguments(
        model=MODEL,
        train_file=str(files["train"]),
        validation_file=str(files["validation"]),
        output_dir=str(RUN),
        separator=SEPARATOR,
        num_virtual_tokens=10,
        learning_rate=LEARNING_RATE,
        scale_parameter=False,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        eval_steps=STEPS // 4,
    )
)
trained.model.print_trainable_parameters()

# %%
from IPython.display import Image

from prefix_peft.commands.report import plot_learning_curve

Image(plot_learning_curve(trained.progress.log, RUN / "learning_curve.png"))

# %% [markdown]
# **Scores.** `evaluate` loads the prefix from its directory, lets the model write with and without it, and compares
# with the references. `protocol="e2e"` and its like score as the official scripts of the data sets do.

# %%
from prefix_peft.commands.arguments import EvaluateArguments
from prefix_peft.commands.report import scores_table
from prefix_peft.evaluation.scoring import evaluate

result = evaluate(
    EvaluateArguments(
        model=MODEL,
        adapter=str(RUN),
        data_file=str(files["test"]),
        without_prefix=True,
        max_samples=32,
        num_beams=1,
        max_new_tokens=70,
    )
)
print(scores_table(result.scores))
assert result.scores["with prefix"]["bleu"] > result.scores["base model"]["bleu"]

# %% [markdown]
# Numbers hide what texts show. The base model does know what follows a record: questions, lists, headlines; it is the
# prefix that makes it choose, and that brings the sailors' idiom.

# %%
for i, record in enumerate(result.records[:5]):
    print(f"record       {record.source}")
    for system, texts in result.generations.items():
        print(f"{system:<12} {texts[i]}")
    print(f"reference    {record.references[0]}\n")

# %% [markdown]
# The directory is complete: anybody with the same base model can write with it.
#
# ```sh
# prefix-peft generate --model MODEL --adapter runs/table-to-text --prompt "name : Belnopa Peak | lit : 1907"
# ```
