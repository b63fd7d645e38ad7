# %% [markdown]
# # Summaries, and the three sites of an encoder-decoder
#
# An encoder-decoder attends in three places: the encoder to the article, the decoder to what it has written, and
# across, the decoder to the article. You will see a prefix at each of them and at all, trained on the same summaries,
# and which of them does what.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# Put `t5-small`, `facebook/bart-base` or another encoder-decoder here, and leave out the pretraining below. No such
# model is small enough to come with the package, so by default a tiny BART is made and pretrained here, which takes
# seconds.

# %%
import os
from pathlib import Path

MODEL = os.environ.get("PREFIX_PEFT_SEQ2SEQ_MODEL", "")
RUN = Path("runs/summaries")
RUN.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# **The articles**, made up on the spot, report on weather, sport and prices, in any order.

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
    "weather": "{sky} came to {town} on {day}.",
    "sport": "{team} of {town} won by {count} goals.",
    "prices": "The price of {good} rose to {count} coins.",
}


def article(rng):
    """A sentence by topic, in the order of the article."""
    topics = rng.sample(list(TOPICS), len(TOPICS))
    drawn = {topic: {name: rng.choice(words) for name, words in WORDS.items()} for topic in topics}
    return {topic: TOPICS[topic].format(**drawn[topic]) for topic in topics}


print(" ".join(article(Random(0)).values()))

# %% [markdown]
# **The base model.** The tiny one learns to copy a sentence of an article, any of the three. So it can do what the task
# asks, but has no reason to prefer it: what pretraining leaves a model with.

# %%
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from prefix_peft.training.batches import collate, encode_pairs, padding_id
from prefix_peft.training.models import load_base


def tiny_tokenizer():
    """A token a word."""
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    texts = (sentence for seed in range(500) for sentence in article(Random(seed)).values())
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=list(names.values())))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def tiny_bart(tokenizer):
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=64, dropout=0.0,
        init_std=0.12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


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


def any_sentence(rng):
    sentences = list(article(rng).values())
    return " ".join(sentences), rng.choice(sentences)


torch.manual_seed(0)
if MODEL:
    base, tokenizer = load_base(MODEL)
    base.to("cuda" if torch.cuda.is_available() else "cpu")
else:
    tokenizer = tiny_tokenizer()
    base = tiny_bart(tokenizer)
    losses = train(base, any_sentence, steps=250, learning_rate=5e-3)
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")

# %% [markdown]
# **Where a prefix can go.** Four prefixes on one model, of as many numbers each: at one kind of site, or a third as
# long at all three. `inspect` lists the sites and what they carry.

# %%
from peft import get_peft_model

import prefix_peft
from prefix_peft import PrefixConfig
from prefix_peft.training.report import sites_table


def prefix_at(*sites):
    return PrefixConfig(num_virtual_tokens=12 // len(sites), sites=list(sites), task_type="SEQ_2_SEQ_LM")


model = get_peft_model(base, prefix_at("encoder"), adapter_name="encoder")
model.add_adapter("decoder", prefix_at("decoder"))
model.add_adapter("cross", prefix_at("cross"))
model.add_adapter("all", prefix_at("encoder", "decoder", "cross"))
model.print_trainable_parameters()
print(sites_table(prefix_peft.inspect(model)))

# %% [markdown]
# **The task**: of each article, only the sport. Every prefix sees the same articles.


# %%
def sport(rng):
    sentences = article(rng)
    return " ".join(sentences.values()), sentences["sport"]


STEPS = 80
curves = {}
for name in ("encoder", "decoder", "cross", "all"):
    model.set_adapter(name)
    curves[name] = train(model, sport, STEPS, learning_rate=0.1)
    print(f"{name:<8} loss {curves[name][0]:.2f} -> {curves[name][-1]:.3f}")

# %%
import matplotlib.pyplot as plt
from IPython.display import Image

figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
for name, losses in curves.items():
    axes.plot(losses, label=name, linewidth=1.6)
axes.set(xlabel="step", ylabel="loss (nats per token)", title="Learning the same summaries at each site")
axes.grid(alpha=0.3)
axes.legend(title="prefix at", frameon=False)
figure.savefig(RUN / "sites.png", dpi=110)
plt.close(figure)
Image(RUN / "sites.png")

# %% [markdown]
# **What they write** for articles that none has seen:

# %%
from prefix_peft.training.evaluation import generate_texts
from prefix_peft.training.report import markdown_table

rng = Random(2)
sources, targets = zip(*(sport(rng) for _ in range(40)), strict=True)


def right(texts):
    return sum(text == target for text, target in zip(texts, targets, strict=True))


model.eval()
with model.disable_adapter():
    written = {"none": generate_texts(model, tokenizer, sources, max_new_tokens=20)}
for name in curves:
    model.set_adapter(name)
    written[name] = generate_texts(model, tokenizer, sources, max_new_tokens=20)

print(sources[0])
for name, texts in written.items():
    print(f"  {name:<8} {texts[0]}")
rows = [[name, str(right(texts))] for name, texts in written.items()]
print(f"\n{markdown_table(['prefix at', 'right of 40'], rows)}")
assert right(written["all"]) > right(written["none"]) + 10

# %% [markdown]
# **Which attends when.** How much of the attention the prefix at all three sites gets, layer by layer and head by head.

# %%
from prefix_peft.inside import attention_mass
from prefix_peft.inside.heatmap import maps_of_masses
from prefix_peft.inside.picture import draw

masses = attention_mass(model, tokenizer, sources[0], targets[0])
draw("Attention to the prefix", maps_of_masses(masses), RUN / "attention.png")
Image(RUN / "attention.png")
