"""Quickstart: wrap a model, train its prefix with a plain PyTorch loop, save it, load it, use it.

    python examples/quickstart.py            # offline, on the embedded base model, about a minute
    python examples/quickstart.py --model gpt2

Everything below is PyTorch, transformers and PEFT; only ``prefix_peft.wrap`` is new.
"""

import argparse
import tempfile

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefix_peft
from prefix_peft.demo import records, run


def main(argv: list[str] | None = None) -> str:
    """Returns what the loaded prefix writes for a record it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(run.BASE), help="a directory or an id of the Hub")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args(argv)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)

    torch.manual_seed(0)
    model = prefix_peft.wrap(base, num_virtual_tokens=10).train()
    model.print_trainable_parameters()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2)
    pairs = records.pairs("train")
    for step in range(options.steps):
        pair = pairs[step % len(pairs)]
        prompt = tokenizer(pair["source"] + run.SEPARATOR, return_tensors="pt").input_ids
        target = tokenizer(" " + pair["references"][0] + tokenizer.eos_token, return_tensors="pt").input_ids
        labels = torch.cat([torch.full_like(prompt, -100), target], dim=1)  # the loss is on the target only
        loss = model(input_ids=torch.cat([prompt, target], dim=1), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 25 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}")

    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)  # the prefix and nothing else
        fresh = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
        model = PeftModel.from_pretrained(fresh, directory).eval()
    prompt = tokenizer(records.pairs("test")[0]["source"] + run.SEPARATOR, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=60, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    text = tokenizer.decode(ids[0, prompt.input_ids.shape[1] :], skip_special_tokens=True).strip()
    print(f"\n{records.pairs('test')[0]['source']}\n  -> {text}")
    return text


if __name__ == "__main__":
    main()
