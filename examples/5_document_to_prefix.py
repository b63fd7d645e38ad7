# %% [markdown]
# # A document becomes a prefix
#
# A model reads a document once; what it keeps of it, keys and values, becomes a prefix that answers as if the document
# stood before each question. Then a prefix a quarter as long is trained to do the same, by distillation.

# %%
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "prefix-peft[demo]"], check=True)

# %% [markdown]
# The tiny base model of the package knows one form of document and one form of question. With `gpt2` or
# `Qwen/Qwen2.5-0.5B` write any `DOCUMENT` and `QUESTIONS` you like.

# %%
import os
from pathlib import Path

import torch

from prefix_peft.demo.run import BASE

MODEL = os.environ.get("PREFIX_PEFT_MODEL", str(BASE))
RUN = Path("runs/document")

DOCUMENT = "name : Orla Venn | born : 1912 | field : botany | home : Falholt | teacher : Borta Alero | pet : Zorrek =>"
ANSWERS = {"born": "1912", "field": "botany", "home": "Falholt", "teacher": "Borta Alero", "pet": "Zorrek"}
QUESTIONS = {about: f" Question: what is the {about} of Orla Venn? Answer:" for about in ANSWERS}

# %%
from prefix_peft.commands.models import load_base

base, tokenizer = load_base(MODEL)
document = tokenizer(DOCUMENT, return_tensors="pt").input_ids
print(f"{document.shape[1]} tokens: {tokenizer.convert_ids_to_tokens(document[0])[:12]} ...")


def answer(model, prompt):
    """What ``model`` writes behind the tokens ``prompt`` (1, T), up to the end of the sentence."""
    greedy = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
    ids = model.generate(prompt.to(model.device), **greedy)
    return tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True).strip()


def ask(model, before=None):
    """Each question alone, or behind the tokens ``before``."""
    for about, question in QUESTIONS.items():
        ids = tokenizer(question, return_tensors="pt").input_ids
        yield about, answer(model, ids if before is None else torch.cat([before, ids], dim=1))


# %% [markdown]
# **The usual way** puts the document into each prompt.

# %%
in_the_prompt = dict(ask(base, before=document))
for about, text in in_the_prompt.items():
    print(f"{about:<8} {text}")

# %% [markdown]
# **Compiled.** A prefix of as many virtual tokens as the document has takes over its keys and values. Nothing is
# trained.

# %%
import prefix_peft

model = prefix_peft.wrap(base, num_virtual_tokens=document.shape[1])
left_over = prefix_peft.initialize_kv_prefix_from_text(model, tokenizer, DOCUMENT)
assert left_over == 0  # nothing of the document's keys and values is lost

compiled = dict(ask(model))
assert compiled == in_the_prompt

# %% [markdown]
# **It is exact**: logits for a question behind the prefix are those of the model that reads document and question, up
# to the rounding of float32.

# %%
question = tokenizer(QUESTIONS["teacher"], return_tensors="pt").input_ids
with torch.no_grad():
    behind_prefix = model(question).logits
    with model.disable_adapter():
        reading_all = base(torch.cat([document, question], dim=1)).logits[:, document.shape[1] :]
        without = base(question).logits
print(f"largest difference with the prefix    {(behind_prefix - reading_all).abs().max():.1e}")
print(f"largest difference without a document {(without - reading_all).abs().max():.1e}")
assert torch.allclose(behind_prefix, reading_all, atol=1e-3)

# %% [markdown]
# **Kept.** It is a prefix like any other: saved, loaded, one of many on one model, or a start for training.

# %%
model.save_pretrained(RUN / "compiled")
print(f"{(RUN / 'compiled' / 'adapter_model.safetensors').stat().st_size / 1024:.0f} KiB")

# %% [markdown]
# **Distilled.** With the document in view the model writes a few hundred texts behind such questions; then a short
# prefix is trained until the model behind it predicts these texts as it did behind the document. No answers are given
# to it. It is `prefix-peft distill` on the command line.

# %%
from prefix_peft.commands.arguments import DistillArguments
from prefix_peft.training.distillation import distill

RUN.mkdir(parents=True, exist_ok=True)
(RUN / "document.txt").write_text(DOCUMENT)
(RUN / "questions.txt").write_text("\n".join(QUESTIONS.values()))
distilled = distill(
    DistillArguments(
        model=MODEL,
        document_file=str(RUN / "document.txt"),
        prompts_file=str(RUN / "questions.txt"),
        output_dir=str(RUN / "distilled"),
        num_virtual_tokens=document.shape[1] // 4,
        num_samples=200,
        num_validation_samples=20,
        max_new_tokens=8,
        max_steps=100,
        per_device_train_batch_size=8,
        eval_steps=50,
    )
)
distilled.model.print_trainable_parameters()

# %% [markdown]
# How far is each from the model that has the document in view? `KL` is the divergence of its next-token distributions,
# `loss` that of the texts, in nats per token. The document's own beginning, as long as the prefix, is the fair rival.

# %%
from prefix_peft.commands.report import scores_table

print(scores_table(distilled.scores, digits=3))
assert distilled.scores["the prefix"]["KL"] < distilled.scores["the document's beginning"]["KL"] / 2

# %% [markdown]
# And what it answers:

# %%
distilled.model.eval()
print(f"{'':<8} {'the document':<20} {document.shape[1] // 4} trained tokens")
for about, text in ask(distilled.model):
    print(f"{about:<8} {in_the_prompt[about]:<20} {text}")
