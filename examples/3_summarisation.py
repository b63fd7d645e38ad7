# %% [markdown]
# # Summaries, and the three sites of an encoder-decoder
#
# An encoder-decoder attends in three places: the encoder to the article, the decoder to what it has written, and
# across, the decoder to the article. You will see a prefix at each of them and at all three, on three kinds of summary,
# and which site can do what.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# Put `t5-small`, `facebook/bart-base` or another encoder-decoder here. None is small enough to come with the package,
# so by default a tiny BART is made and pretrained in this notebook, which takes seconds.

# %%
import os
from pathlib import Path

MODEL = os.environ.get("PREFIX_PEFT_SEQ2SEQ_MODEL", "")
RUN = Path("runs/summaries")
RUN.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# **The articles**, made up on the spot, are headlines of the day: weather, sport and prices, in any order.

# %%
from random import Random

WORDS = {
    "sky": ["Rain", "Snow", "Fog", "Hail", "Sunshine", "Thunder"],
    "town": ["Arden", "Belford", "Corley", "Dunmore", "Elton", "Farley", "Granby", "Harwick", "Linton", "Marsden"],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "team": ["Rovers", "Wanderers", "Rangers", "Athletic", "United", "Harriers", "Albion", "Hornets", "Lions"],
    "good": ["wheat", "copper", "wool", "coffee", "silver", "timber", "cotton", "sugar", "salt"],
    "count": ["two", "three", "four", "five", "six", "seven", "eight", "nine"],
}
TOPICS = {
    "weather": "{sky} came to {town} on {day}",
    "sport": "{team} of {town} won by {count} goals",
    "prices": "The price of {good} rose to {count} coins",
}


def news(rng):
    """A headline by topic, in the order of the article."""
    topics = rng.sample(list(TOPICS), len(TOPICS))
    drawn = {topic: {name: rng.choice(words) for name, words in WORDS.items()} for topic in topics}
    return {topic: TOPICS[topic].format(**drawn[topic]) for topic in topics}


def article(headlines):
    return " - ".join(headlines.values())


print(article(news(Random(0))))

# %% [markdown]
# **The base model.** The tiny one learns to copy a headline of an article, any of the three. So it can do what the task
# asks, but has no reason to prefer it: what pretraining leaves a model with.

# %%
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from prefix_peft.commands.models import load_base
from prefix_peft.data.batches import collate, encode_pairs, padding_id


def tiny_tokenizer():
    """A token a word."""
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = (article(news(Random(seed))) for seed in range(500))
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=list(names.values())))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def tiny_bart(tokenizer):
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=64, dropout=0.0,
        init_std=0.12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


# %% [markdown]
# One loop trains the tiny model now, and the prefixes later.


# %%
def loss_of(model, pairs):
    """The mean loss on the targets of (source, target) texts."""
    examples = encode_pairs(pairs, tokenizer, is_encoder_decoder=True).examples
    batch = collate(examples, padding_id(tokenizer), is_encoder_decoder=True)
    return model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss


def train(model, draw, steps, learning_rate):
    """Steps on 32 pairs each, which ``draw`` draws; returns the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    losses, rng = [], Random(1)
    for _ in range(steps):
        loss = loss_of(model, [draw(rng) for _ in range(32)])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def any_headline(rng):
    headlines = news(rng)
    return article(headlines), rng.choice(list(headlines.values()))


torch.manual_seed(0)
if MODEL:
    base, tokenizer = load_base(MODEL)
    base.to("cuda" if torch.cuda.is_available() else "cpu")
else:
    tokenizer = tiny_tokenizer()
    base = tiny_bart(tokenizer)
    losses = train(base, any_headline, steps=250, learning_rate=5e-3)
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

# %% [markdown]
# **The tasks**: the headline about sport; the last one, whatever it is about; and the sport in another order of words,
# which the model has never written.


# %%
def reworded(headlines):
    team, _, town, _, _, count, goals = headlines["sport"].split()
    return f"{count} {goals} by {team} of {town}"


TASKS = {
    "the sport": lambda headlines: headlines["sport"],
    "the last": lambda headlines: list(headlines.values())[-1],
    "other words": reworded,
}


def draw_for(task):
    def draw(rng):
        headlines = news(rng)
        return article(headlines), TASKS[task](headlines)

    return draw


def summaries(task, seed, count):
    rng = Random(seed)
    return [draw_for(task)(rng) for _ in range(count)]


for task in TASKS:
    print(f"{task:<12}", *summaries(task, seed=0, count=1)[0], sep="\n  ")

# %% [markdown]
# **Where a prefix can go.** `sites` says at which kinds of attention. Four prefixes of as many numbers: at one kind, or
# a third as long at all three. `inspect` lists the sites of a model and what they carry.

# %%
from peft import get_peft_model

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.commands.report import sites_table

SITES = {
    "encoder": ["encoder"],
    "decoder": ["decoder"],
    "cross": ["cross"],
    "all three": ["encoder", "decoder", "cross"],
}


def config_of(name):
    sites = SITES[name]
    return PrefixConfig(num_virtual_tokens=12 // len(sites), sites=sites, task_type="SEQ_2_SEQ_LM")


model = get_peft_model(base, config_of("all three"), adapter_name="all three")
model.print_trainable_parameters()
print(sites_table(prefix_peft.inspect(model)))

# %% [markdown]
# **Train** a prefix for each task and each choice of sites, on the same articles: twelve small adapters of one model.

# %%
from prefix_peft.evaluation.texts import generate_texts

unseen = {task: summaries(task, seed=2, count=40) for task in TASKS}
curves, written = {}, {}
for task in TASKS:
    sources = [source for source, _ in unseen[task]]
    for name in SITES:
        model.add_adapter(f"{task}, {name}", config_of(name))
        model.set_adapter(f"{task}, {name}")
        curves[task, name] = train(model, draw_for(task), steps=80, learning_rate=0.1)
        model.eval()
        written[task, name] = generate_texts(model, tokenizer, sources, max_new_tokens=20, description=name)

# %%
import matplotlib.pyplot as plt
from IPython.display import Image

figure, panels = plt.subplots(1, len(TASKS), figsize=(11, 3.4), sharey=True, layout="constrained")
for panel, task in zip(panels, TASKS, strict=True):
    for name in SITES:
        panel.plot(curves[task, name], label=name, linewidth=1.6)
    panel.set(title=task, xlabel="step", yscale="log")
    panel.grid(alpha=0.3)
panels[0].set_ylabel("loss (nats per token)")
panels[0].legend(title="prefix at", frameon=False)
figure.savefig(RUN / "sites.png", dpi=110)
plt.close(figure)
Image(RUN / "sites.png")

# %% [markdown]
# **How many of 40 summaries are right**, to the word:

# %%
from prefix_peft.commands.report import markdown_table

right = {
    (task, name): sum(text == target for text, (_, target) in zip(texts, unseen[task], strict=True))
    for (task, name), texts in written.items()
}
print(markdown_table(["prefix at", *TASKS], [[name, *(str(right[task, name]) for task in TASKS)] for name in SITES]))

# %% [markdown]
# Every site can say which topic it is. Which headline is the last is for the encoder to say: a prefix there can mark
# it, while that of the decoder never meets the article (a third would be chance). How it is worded is for the decoder:
# a prefix in the encoder cannot make it say what it never said. All three together, a third as long each, do
# everything.

# %%
if not MODEL:
    assert min(right["the sport", name] for name in SITES) > 30
    assert right["the last", "encoder"] > right["the last", "decoder"] + 10
    assert right["other words", "decoder"] > right["other words", "encoder"] + 10
    assert min(right[task, "all three"] for task in TASKS) > 30

source, target = unseen["other words"][0]
print(f"{source}\n")
for name in SITES:
    print(f"{name:<10} {written['other words', name][0]}")

# %% [markdown]
# **When it is attended to.** The prefix at all three sites, for the last task: the share of each token's attention that
# it gets, in the encoder, in the decoder and across.

# %%
from prefix_peft.inside import attention_mass
from prefix_peft.inside.heatmap import maps_of_masses
from prefix_peft.inside.picture import draw

masses = attention_mass(model, tokenizer, source, target)
draw("Attention to the prefix", [heat for heat in maps_of_masses(masses) if heat.words], RUN / "attention.png")
Image(RUN / "attention.png")

# %% [markdown]
# Real articles and real models: `prefix-peft train --task xsum --model facebook/bart-large` (`prefix-peft[hub]`), at
# all three sites by default, as in the paper.
