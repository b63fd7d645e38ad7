"""What the results say, in words; the figures in the tables beside them are written by the commands."""

INTRODUCTION = """# Results

The experiments of Li & Liang (2021), on a base that a small machine can train. This page is written by
`python experiments --output docs/results --page docs/results.md` from the cells in `docs/results/cells.jsonl`, which
the commands below have run. A figure is a mean over runs with their standard deviation, where there are several.
Learning rates are chosen on validation data (`tune`), at as many rates for each method; test data are used once. All
methods have the same base, loop, order of the data, steps, decoding and metrics. `python experiments --help` lists what
else is ready to run, on any base; `--recipes` takes the paper's hyperparameters.

The base `gpt2-12m-denoise` is a GPT-2 of 12.6 million numbers, trained on 15 million tokens of prose and then, by
`python -m experiments.pretrain decoder` (22 minutes on one core, and 19 more with `--copying 0 --learning-rate 8e-4
--seed 1`; 2.5 million tokens), to word lists of content words from the same texts, some of its heads told where to
look. It has read no task's data. It copies common names, rare ones in part, and likes to go in circles. The paper's
GPT-2 medium is 28 times as large: what is seen here is how the methods compare on a base that can barely do the task,
and one run or two of each are no more than a first look.
"""

_BASE = "gpt2-12m-denoise"
FINDINGS = {  # by experiment and base
    ("tune", _BASE): "After 60 steps of 10 pairs. The best of the adapter and of PEFT's prefix is the largest that was "
    "tried, so they may have more to give; the others' lies inside.",
    ("table", _BASE): """200 steps of 10 pairs, 100 records of each part. Only prefix and fine-tuning have two seeds,
and they say how little one run tells: the prefix has 13.9 BLEU on unseen topics with one and 9.8 with the other. So
among the adapter, LoRA and the two prefixes of its size no order can be told. Fine-tuning is far ahead, for it teaches
what this base does not know, which a prefix cannot (Petrov et al. 2024). On unseen topics it loses 42 % of its BLEU and
the prefix 25 %, but stays above it, against the paper. The MLP does not help: at its best rate it ends below the flat
prefix, in loss as well.""",
    ("low-data", _BASE): """One draw and one seed, at the rates that `tune` found on WebNLG. Fine-tuning is ahead with
50 examples as with 500, the contrary of the paper. The base has never seen a record of a restaurant worded (the
prefix ends at 3.9 to 2.4 nats a token, fine-tuning at 3.2 to 1.9), so there is more to teach than to bring out. The gap
is 12 BLEU with 50 examples and 9 with 500. What the paper shows needs a base that has the skill.""",
}
