"""transformers' Trainer with PEFT's own prefix tuning, killed while it saves: what it makes of what is left.

The prefix is flat: of one with an MLP a checkpoint of Trainer's holds the folded form alone, which it cannot resume.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from . import forks, runs

STEPS, SAVE_STEPS = 24, 2
SLOW = 0.02  # seconds that each torch.save takes longer, as on a slow disk


def what_it_does(folder: Path, tries: int) -> str:
    """In words, of runs that are killed inside one save each and started again with ``resume_from_checkpoint``."""
    whole, found = folder / "trainer-whole", Counter[str]()
    assert forks.finish(forks.fork(lambda: _train(whole, False), folder / "said")) == 0, (folder / "said").read_text()
    for i in range(tries):
        output = folder / f"trainer{i}"
        in_vain = _kill_in_a_save(output, folder / "said", after=2 + i % (STEPS // SAVE_STEPS - 2))
        status = forks.finish(forks.fork(lambda output=output: _train(output, True), folder / "said"))
        if in_vain or status == forks.HUNG:
            found["never end"] += 1
        elif status:
            found["end with an error of Trainer's"] += 1
        elif runs.differences(_prefix(output), _prefix(whole)):
            found["end with another prefix, and say nothing"] += 1
        else:
            found["end bit for bit"] += 1
    listed = ", ".join(f"{count} {what}" for what, count in found.items())
    return f"with Trainer, which writes it in place: of {tries} runs resumed with 'last' {listed}"


def _prefix(output: Path) -> dict[str, torch.Tensor | str]:
    return dict(load_file(output / "adapter_model.safetensors"))


def _kill_in_a_save(output: Path, said: Path, after: int) -> str:
    process = forks.fork(lambda: _train(output, False), said, _slow_save)
    torn = output / f"checkpoint-{SAVE_STEPS * after}"
    in_vain = forks.wait_for(torn.name, torn.is_dir, process)
    time.sleep(0.02 * (after % 7))
    process.kill()
    process.join()
    return in_vain


def _slow_save() -> None:
    save = torch.save

    def slow(*args: object, **kwargs: object) -> None:
        time.sleep(SLOW)
        save(*args, **kwargs)

    torch.save = slow


def _train(output: Path, resume: bool) -> int:
    torch.manual_seed(0)
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(runs.base_model(), config)
    rows = [{"input_ids": (ids := torch.randint(3, runs.WORDS, (9,))), "labels": ids} for _ in range(43)]
    arguments = TrainingArguments(
        str(output), max_steps=STEPS, save_steps=SAVE_STEPS, per_device_train_batch_size=4, learning_rate=1e-3,
        report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume or None)
    model.save_pretrained(str(output))
    return 0
