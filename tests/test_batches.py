import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from prefix_peft.data.batches import collate, collate_prompts, encode_pairs, encode_prompts, padding_id

PAIRS = [
    ("name : The Vaults | Type : pub", "The Vaults is a pub ."),
    ("name : The Mill | Type : coffee shop | near : Café Rouge", "Near Café Rouge there is The Mill , a coffee shop ."),
]
SOURCES = [source for source, _ in PAIRS]


def build(kind: str, **extra) -> PreTrainedTokenizerFast:
    """A tiny BPE in the manner of GPT-2 (bytes), Llama (a mark before every word, bos in front) or T5 (eos behind)."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "gpt2":
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        # As in Llama 2's file: a mark is put before every text, even one that begins with a space.
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer, core.decoder = pre_tokenizers.Split("▁", "merged_with_next"), decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "gpt2" else []
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([text for pair in PAIRS for text in pair] + ["=> x y z t"], trainer)
    template = {"gpt2": None, "llama": "<s> $A", "t5": "$A </s>", "bart": "<s> $A </s>"}[kind]
    if template:
        core.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, **{"bos_token": "<s>", "eos_token": "</s>"} | extra)


@pytest.fixture(scope="module")
def gpt2():
    return build("gpt2")


def causal(pairs, tokenizer, **options):
    return encode_pairs(pairs, tokenizer, is_encoder_decoder=False, **options)


def seq2seq(pairs, tokenizer, **options):
    return encode_pairs(pairs, tokenizer, is_encoder_decoder=True, **options)


def prompts_of(sources, tokenizer, **options):
    return encode_prompts(sources, tokenizer, is_encoder_decoder=False, **options)


def target_of(example):
    return [label for label in example["labels"] if label != -100]


def test_the_default_form_is_that_of_the_papers_code(gpt2):
    encoded = causal(PAIRS, gpt2)
    assert (len(encoded), encoded.truncated) == (2, 0)
    for (source, target), example in zip(PAIRS, encoded, strict=True):
        whole = gpt2(f" {source} <s> {target} </s>")["input_ids"]  # read in one piece, as the paper's code does
        front = whole.index(gpt2.bos_token_id) + 1
        assert example == {"input_ids": whole, "labels": [-100] * front + whole[front:]}


def test_a_separator_of_ones_own(gpt2):
    for (source, target), example in zip(PAIRS, causal(PAIRS, gpt2, separator=" =>"), strict=True):
        assert gpt2.decode(example["input_ids"]) == f"{source} => {target}</s>"
        assert gpt2.decode(target_of(example)) == f" {target}</s>"
        assert len(example["labels"]) == len(example["input_ids"])


@pytest.mark.parametrize("separator", [None, " =>", "\n\n", ""])
def test_a_prompt_is_the_front_of_its_training_example(gpt2, separator):
    draw = random.Random(5)  # texts in which pieces, spaces and special tokens meet in every way
    pieces = ["The", " Va", "ults", " ", "\n", "\n\n", "'s", ".", "é", "漢", "🙂", "\u0301", "7", "=>", "<s>", "</s>"]
    texts = ["".join(draw.choices(pieces, k=draw.randrange(7))) for _ in range(400)]
    pairs = list(zip(texts, reversed(texts), strict=True))
    prompts = prompts_of(texts, gpt2, separator=separator)
    for example, prompt in zip(causal(pairs, gpt2, separator=separator), prompts, strict=True):
        front = len(prompt)
        assert example["input_ids"][:front] == prompt
        assert example["labels"] == [-100] * front + example["input_ids"][front:]
        assert example["labels"][-1] == gpt2.eos_token_id


def test_the_prompt_stays_the_front_where_a_token_spans_the_border(gpt2):
    joined = causal([("The Va", "pub")], gpt2, separator="ults")[0]["input_ids"]
    assert joined[: len(gpt2("The Va")["input_ids"])] == gpt2("The Va")["input_ids"] != gpt2("The Vaults")["input_ids"]
    assert gpt2.decode(joined) == "The Vaults pub</s>"


def test_a_tokenizer_that_marks_words_and_adds_bos_reads_the_text_in_one_piece():
    llama = build("llama")
    source, target = PAIRS[0]
    example = causal([PAIRS[0]], llama, separator=" =>")[0]
    assert example["input_ids"] == llama(f"{source} => {target}")["input_ids"] + [llama.eos_token_id]
    assert example["input_ids"][0] == llama.bos_token_id
    assert llama.convert_ids_to_tokens(target_of(example)[:1]) == ["▁The"]  # not a lone mark and then "The"


@pytest.mark.parametrize("kind, front", [("t5", []), ("bart", [1])])
def test_an_eos_that_a_causal_tokenizer_adds_comes_once_and_last(kind, front):
    tokenizer = build(kind)
    ids = causal([PAIRS[0]], tokenizer, separator=" =>")[0]["input_ids"]
    assert (ids.count(tokenizer.eos_token_id), ids[-1]) == (1, tokenizer.eos_token_id)
    assert ids[: len(front)] == front and ids.count(tokenizer.bos_token_id) == len(front)
    assert tokenizer.eos_token_id not in prompts_of(SOURCES, tokenizer, separator=" =>")[0]


def test_a_text_that_holds_special_tokens_shifts_no_label(gpt2):
    example = causal([("a <s> b", "c </s> d")], gpt2)[0]
    assert gpt2.decode(target_of(example)) == " c </s> d </s>"


def test_an_encoder_decoder_reads_the_source_and_writes_the_target():
    for kind in ("t5", "bart"):
        tokenizer = build(kind)
        for (source, target), example in zip(PAIRS, seq2seq(PAIRS, tokenizer), strict=True):
            assert example["input_ids"] == tokenizer(source)["input_ids"]
            assert example["labels"] == tokenizer(text_target=target)["input_ids"]
            assert example["labels"][-1] == tokenizer.eos_token_id


def test_an_encoder_decoder_learns_to_end_even_if_its_tokenizer_adds_no_eos(gpt2):
    example = seq2seq(PAIRS, gpt2)[0]
    assert example["labels"] == gpt2(PAIRS[0][1])["input_ids"] + [gpt2.eos_token_id]
    assert example["input_ids"] == gpt2(PAIRS[0][0])["input_ids"]


def test_an_encoder_decoders_targets_are_read_as_targets(monkeypatch):
    tokenizer = build("t5")  # as mBART and NLLB, which put another language code around a target
    monkeypatch.setattr(
        tokenizer, "_switch_to_target_mode", lambda: set_template(tokenizer, "</s> $A <s>"), raising=False
    )
    monkeypatch.setattr(tokenizer, "_switch_to_input_mode", lambda: set_template(tokenizer, "$A </s>"), raising=False)
    example = seq2seq(PAIRS, tokenizer)[0]
    assert (example["labels"][0], example["labels"][-1], example["input_ids"][-1]) == (2, 1, 2)
    assert tokenizer.decode(example["labels"][1:-1]) == PAIRS[0][1]


def set_template(tokenizer, template):
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)


@pytest.mark.parametrize("separator, tail", [(None, " <s>"), (" =>", " =>")])
def test_a_long_source_loses_its_end_and_keeps_the_separator(gpt2, separator, tail):
    whole = prompts_of(SOURCES, gpt2, separator=separator)
    limit = len(whole[0])
    assert limit < len(whole[1])
    prompts = prompts_of(SOURCES, gpt2, separator=separator, max_source_length=limit)
    assert prompts == [whole[0], whole[1][: limit - 2] + whole[1][-2:]]  # both separators are two tokens
    assert gpt2.decode(prompts[1]).endswith(tail)
    encoded = causal(PAIRS, gpt2, separator=separator, max_source_length=limit)
    assert [example["input_ids"][: len(prompt)] for example, prompt in zip(encoded, prompts, strict=True)] == prompts
    assert target_of(encoded[1]) == target_of(causal(PAIRS, gpt2, separator=separator)[1])
    assert (encoded.truncated, prompts.truncated, whole.truncated) == (1, 1, 0)


def test_a_long_target_loses_its_end_and_keeps_eos(gpt2):
    whole = [target_of(example) for example in causal(PAIRS, gpt2)]
    limit = len(whole[0])
    encoded = causal(PAIRS, gpt2, max_target_length=limit)
    assert [target_of(example) for example in encoded] == [whole[0], [*whole[1][: limit - 1], gpt2.eos_token_id]]
    assert encoded.truncated == 1


def test_an_encoder_decoders_lengths_count_its_special_tokens():
    bart = build("bart")
    whole = seq2seq(PAIRS, bart)[1]
    cut = seq2seq(PAIRS, bart, max_source_length=7, max_target_length=6)
    assert cut[1] == {name: [*whole[name][: n - 1], bart.eos_token_id] for name, n in [("input_ids", 7), ("labels", 6)]}
    assert cut.truncated == 2
    prompts = encode_prompts(SOURCES, bart, is_encoder_decoder=True, max_source_length=7)
    assert (prompts, prompts.truncated) == ([example["input_ids"] for example in cut], 2)


def test_without_limits_the_models_own_holds():
    tight = build("gpt2", model_max_length=29)
    whole = causal(PAIRS, build("gpt2"))
    assert len(whole[0]["input_ids"]) <= 29 < len(whole[1]["input_ids"])
    encoded = causal(PAIRS, tight)
    assert encoded[0] == whole[0] and len(encoded[1]["input_ids"]) == 29 and encoded.truncated == 1
    assert target_of(encoded[1]) == target_of(whole[1])
    assert causal(PAIRS, tight, max_source_length=99)[1] == encoded[1]
    assert [len(p) for p in prompts_of(["pub " * 99], tight, max_source_length=99)] == [29]
    long = [("pub " * 99, "pub " * 99)]
    assert {name: len(ids) for name, ids in seq2seq(long, tight)[0].items()} == {"input_ids": 29, "labels": 29}


def test_an_encoder_decoder_may_be_given_more_than_its_tokenizer_says():
    tight = build("t5", model_max_length=5)  # T5 says 512 and reads more
    encoded = seq2seq(PAIRS, tight, max_source_length=99, max_target_length=99)
    assert encoded.truncated == 0 and list(encoded) == list(seq2seq(PAIRS, build("t5")))


def test_an_empty_text_among_others_hides_no_special_token():
    llama = build("llama")
    assert prompts_of(["", "The Mill"], llama, separator=" =>")[1] == llama("The Mill =>")["input_ids"]


def test_training_batches_are_padded_on_the_right_and_padding_is_never_a_label(gpt2):
    encoded = causal(PAIRS, gpt2)
    batch = next(iter(DataLoader(encoded, 2, collate_fn=lambda rows: collate(rows, padding_id(gpt2), False))))
    short, long = (len(example["input_ids"]) for example in encoded)
    eos = gpt2.eos_token_id  # stands for the missing pad token
    assert batch["input_ids"].tolist() == [
        encoded[0]["input_ids"] + [eos] * (long - short),
        encoded[1]["input_ids"],
    ]
    assert batch["attention_mask"].tolist() == [[1] * short + [0] * (long - short), [1] * long]
    assert batch["labels"].tolist() == [encoded[0]["labels"] + [-100] * (long - short), encoded[1]["labels"]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_an_encoder_decoders_labels_are_padded_to_their_own_length():
    bart = build("bart", pad_token="<pad>")
    encoded = seq2seq(PAIRS, bart)
    batch = collate(list(encoded), padding_id(bart), True)
    theirs = bart(SOURCES, text_target=[target for _, target in PAIRS], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    assert torch.equal(batch["attention_mask"], theirs["attention_mask"])
    assert torch.equal(batch["labels"], theirs["labels"].masked_fill(theirs["labels"] == bart.pad_token_id, -100))


@pytest.mark.parametrize("is_encoder_decoder, side", [(False, "left"), (True, "right")])
def test_prompts_are_padded_on_the_side_where_nothing_is_written(is_encoder_decoder, side):
    tokenizer = build("gpt2", pad_token="<pad>")
    prompts = [[5, 2, 7], [5]]
    batch = collate_prompts(prompts, padding_id(tokenizer), is_encoder_decoder)
    theirs = tokenizer.pad({"input_ids": prompts}, padding_side=side, return_tensors="pt")
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    assert torch.equal(batch["attention_mask"], theirs["attention_mask"])


def test_the_loss_is_minus_the_log_likelihood_of_targets_and_eos(gpt2):
    torch.manual_seed(3)
    lm = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=6, vocab_size=len(gpt2), n_positions=97)).eval()
    batch = collate(list(causal(PAIRS, gpt2)), padding_id(gpt2), False)
    total = []
    for source, target in PAIRS:  # one sequence at a time, unpadded
        front, whole = gpt2(f" {source} <s>")["input_ids"], gpt2(f" {source} <s> {target} </s>")["input_ids"]
        scores = lm(torch.tensor([whole])).logits[0].log_softmax(-1)
        total += [-scores[i - 1, whole[i]] for i in range(len(front), len(whole))]
    torch.testing.assert_close(lm(**batch).loss, torch.stack(total).mean())


def test_requests_that_make_no_sense_are_refused(gpt2):
    with pytest.raises(ValueError, match=r"no pairs to encode; give at least one \(source, target\)"):
        causal([], gpt2)
    with pytest.raises(ValueError, match="no sources to encode; give at least one"):
        prompts_of([], gpt2)
    with pytest.raises(ValueError, match=r"an encoder-decoder reads no separator, got ' =>'; leave it out"):
        seq2seq(PAIRS, gpt2, separator=" =>")
    with pytest.raises(ValueError, match="needs a label for every token; these examples are an encoder-decoder's"):
        collate(list(seq2seq(PAIRS, gpt2)), 0, False)


def test_lengths_that_leave_no_room_are_refused(gpt2):
    taken = r"no room for text in 2 tokens: separator and special tokens take 2; raise max_source_length"
    with pytest.raises(ValueError, match=taken):
        prompts_of(SOURCES, gpt2, max_source_length=2)
    with pytest.raises(ValueError, match=r"in 1 tokens: separator and special tokens take 1; raise max_target_length"):
        causal(PAIRS, gpt2, max_target_length=1)
    tight = build("gpt2", model_max_length=9)  # the first target takes 8 tokens and leaves one for " <s>", which is two
    taken = "no room for text in 1 tokens: .* take 2; the target takes 8 of the model's 9, limit max_target_length"
    with pytest.raises(ValueError, match=taken):
        causal(PAIRS, tight)


def test_a_tokenizer_without_the_tokens_it_takes_is_refused():
    with pytest.raises(ValueError, match="has no bos token to part source and target; give a separator, such as ' =>'"):
        causal(PAIRS, build("gpt2", bos_token=None))
    with pytest.raises(ValueError, match="has no end-of-sequence token, so no text would ever end; set its eos_token"):
        causal(PAIRS, build("gpt2", eos_token=None))
