"""Base models with quantised weights: a prefix trains as on the same weights in float32, and its file goes across."""

import json

import peft
import pytest
import test_batches
import tiny
import torch
import transformers as tr
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers.utils import is_bitsandbytes_available, is_torchao_available

import prefix_peft
from prefix_peft.__main__ import main

P = 3
FORMS = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 13}}
# bitsandbytes wants sides that are multiples of 32, and blocks of 64
WORDS = tiny.TOKENS | {"vocab_size": 420, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
WIDE = WORDS | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_hidden_layers": 2,
}
WIDE_BART = WORDS | {
    "d_model": 64,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 192,
    "encoder_layers": 1,
    "decoder_layers": 2,
}
BASES = {
    "llama": lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**tiny.LLAMA_LIKE | WIDE)),
    "bart": lambda: tr.BartForConditionalGeneration(tr.BartConfig(**tiny.BART_LIKE | WIDE_BART)),
}
has_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="bitsandbytes is not installed")
has_torchao = pytest.mark.skipif(not is_torchao_available(), reason="torchao is not installed")
KINDS = [
    pytest.param("8bit", marks=has_bitsandbytes), pytest.param("4bit", marks=has_bitsandbytes),
    pytest.param("int8", marks=has_torchao),
]  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS)
each_base = pytest.mark.parametrize("family", BASES)
# torch says so whenever PEFT's prepare_model_for_kbit_training is told to checkpoint and nothing more
pytestmark = pytest.mark.filterwarnings("ignore:torch.utils.checkpoint. the use_reentrant parameter:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Base models on disk, where a quantised one is loaded from, and data for the command line."""
    path = tmp_path_factory.mktemp("bases")
    for family, build in BASES.items():
        torch.manual_seed(0)
        build().save_pretrained(path / family)
        test_batches.build("gpt2" if family == "llama" else family, pad_token="<pad>").save_pretrained(path / family)
    (path / "data.jsonl").write_text("".join(json.dumps({"source": "t5 t6", "target": "t7"}) + "\n" for _ in range(4)))
    return path


def load(path, kind=None, dtype=torch.float32):
    """In eval mode; ``kind`` is how it is quantised, ``dtype`` what the rest is in."""
    auto = tr.AutoModelForSeq2SeqLM if path.name == "bart" else tr.AutoModelForCausalLM
    return auto.from_pretrained(path, dtype=dtype, quantization_config=kind and quantisation(kind)).eval()


def quantisation(kind):
    if kind == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return tr.TorchAoConfig(Int8WeightOnlyConfig())
    return tr.BitsAndBytesConfig(load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit", bnb_4bit_quant_type="nf4")


def weight(linear, kind):
    """What a quantised layer multiplies by, as float32."""
    if kind == "int8":
        return linear.weight.dequantize() if hasattr(linear.weight, "dequantize") else linear.weight
    if not hasattr(linear, "state") and not hasattr(linear.weight, "quant_state"):
        return linear.weight
    import bitsandbytes.functional

    if kind == "8bit":
        return linear.weight.data.float() * linear.weight.SCB[:, None] / 127
    return bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state).float()


def rounded(path, kind):
    """The model that the quantised one approximates: plain linear maps by the very weights that it holds."""
    model, quantised = load(path), load(path, kind)
    changed = 0
    for name, module in quantised.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            plain = model.get_submodule(name).weight
            exact = plain.detach().clone()
            with torch.no_grad():
                plain.copy_(weight(module, kind).reshape(plain.shape))
            changed += not torch.equal(plain, exact)
    assert changed > 5, "the model is quantised"
    return model


def wrapped(model, seed=0, **options):
    torch.manual_seed(seed)
    return prefix_peft.wrap(model, P, **options)


def given(family, batch=4):
    ids, labels = tiny.tokens(batch, 7), tiny.tokens(batch, 5, seed=1)
    return {"input_ids": ids, "labels": ids if family == "llama" else labels}


def parameters(model):
    return tiny.prefix_parameters(model)


def gradients(model, family):
    model.train()
    loss = model(**given(family)).loss
    return loss.item(), torch.autograd.grad(loss, list(parameters(model).values()))


def bits(model):
    """All of a base model, in a form that can be compared."""
    state = {name: tensor for name, tensor in model.state_dict().items() if "prefix_kv" not in name}
    return {name: getattr(tensor, "qdata", tensor).clone() for name, tensor in state.items()}


@torch.no_grad()
def distance(a, b):
    return float((a - b).norm() / b.norm())


# Where weights alone are rounded the sums are the same, in another order. LLM.int8 rounds what it multiplies them by as
# well, each number by at most 1/254 of the row's largest; some ten such products, one after the other, stay below 1/10.
NEAR = {"4bit": 1e-4, "int8": 1e-4, "8bit": 0.1}


@each_kind
@each_base
@pytest.mark.parametrize("form", FORMS)
def test_start_loss_and_gradients_are_those_of_the_weights_it_holds(family, form, kind, folder):
    ours = wrapped(load(folder / family, kind), **FORMS[form])
    with torch.no_grad():
        ours(**given(family))  # a model that has been evaluated still trains
    theirs = wrapped(rounded(folder / family, kind), **FORMS[form])
    assert {parameter.dtype for parameter in parameters(ours).values()} == {torch.float32}
    for name, start in parameters(theirs).items():
        assert distance(parameters(ours)[name], start) < NEAR[kind]
    theirs.load_state_dict(
        {name: tensor for name, tensor in ours.state_dict().items() if "prefix_kv" in name}, strict=False
    )
    (our_loss, our_gradients), (loss, expected) = gradients(ours, family), gradients(theirs, family)
    assert our_loss == pytest.approx(loss, rel=NEAR[kind])
    for ours, theirs in zip(our_gradients, expected, strict=True):
        assert theirs.norm() > 0 and distance(ours, theirs) < NEAR[kind]


@each_kind
@each_base
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_a_prefix_trains_and_the_base_stays_bit_identical(family, checkpointing, kind, folder):
    """Prepared as PEFT's guide to quantised training says."""
    base = peft.prepare_model_for_kbit_training(load(folder / family, kind), use_gradient_checkpointing=checkpointing)
    model = wrapped(base).train()
    before, start = bits(model), {name: value.detach().clone() for name, value in parameters(model).items()}
    optimizer, losses = torch.optim.AdamW(list(parameters(model).values()), lr=0.03), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(**given(family)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.2
    for name, value in parameters(model).items():
        assert value.dtype == torch.float32 and not (value == start[name]).any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in bits(model).items())


@each_kind
@each_base
@pytest.mark.parametrize("form", FORMS)
def test_on_a_base_in_half_precision_the_prefix_stays_in_float32(family, form, kind, folder):
    model = wrapped(load(folder / family, kind, torch.bfloat16), **FORMS[form])
    assert {parameter.dtype for parameter in parameters(model).values()} == {torch.float32}
    exact = wrapped(load(folder / family, kind), **FORMS[form])
    exact.load_state_dict(parameters(model), strict=False)
    (loss, found), (exact_loss, expected) = gradients(model, family), gradients(exact, family)
    assert loss == pytest.approx(exact_loss, rel=0.02)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32 and distance(ours, theirs) < 0.2, "some fifty roundings to 1/256"


@each_kind
@each_base
@torch.no_grad()
def test_a_release_goes_from_quantised_to_plain_and_back(family, kind, folder, tmp_path):
    """It is the same prefix; what differs is the base, and by no more than twice what it differs without a prefix."""
    inputs = {"input_ids": given(family)["input_ids"]} | ({} if family == "llama" else {"labels": tiny.tokens(4, 5)})
    trained = tiny.fill(wrapped(load(folder / family, kind)), std=2.0).eval()
    trained.save_pretrained(tmp_path / "release")
    plain = peft.PeftModel.from_pretrained(load(folder / family), tmp_path / "release")
    again = peft.PeftModel.from_pretrained(load(folder / family, kind), tmp_path / "release")
    released = load_file(tmp_path / "release" / "adapter_model.safetensors")
    assert all(torch.equal(released[name.replace(".default", "")], p) for name, p in parameters(trained).items())
    assert {tensor.dtype for tensor in released.values()} == {torch.float32}

    with trained.disable_adapter(), plain.disable_adapter():
        exact, rounded = plain(**inputs).logits, trained(**inputs).logits
    apart = float((rounded - exact).abs().max())
    for model in (trained, again):
        assert float((model(**inputs).logits - plain(**inputs).logits).abs().max()) < 2 * apart
    assert float((plain(**inputs).logits - exact).abs().max()) > 2 * apart, "the prefix matters more"

    plain.save_pretrained(tmp_path / "back")
    back = peft.PeftModel.from_pretrained(load(folder / family, kind), tmp_path / "back")
    assert torch.equal(back(**inputs).logits, again(**inputs).logits)


@each_kind
def test_a_release_of_another_base_is_refused(kind, folder, tmp_path):
    wrapped(load(folder / "llama", kind)).save_pretrained(tmp_path / "release")
    torch.manual_seed(1)
    BASES["llama"]().save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="was trained on another base model"):
        peft.PeftModel.from_pretrained(load(tmp_path / "llama", kind), tmp_path / "release")


def settings(path, **options):
    plain = {"learning_rate": 0.05, "max_steps": 4, "per_device_train_batch_size": 2, "save_steps": 2}
    quiet = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_steps": 1, "bf16": False}
    return {"output_dir": str(path), **plain, **quiet, "gradient_checkpointing": True, **options}


@each_kind
def test_a_resumed_trainer_ends_where_the_uninterrupted_one_does(kind, folder, tmp_path):
    """Evaluated at each step, which must not keep the gradients from the next."""
    rows = [{"input_ids": ids, "labels": ids} for ids in tiny.tokens(4, 7)]
    arguments = tr.TrainingArguments(**settings(tmp_path, eval_strategy="steps", eval_steps=1))

    def trained(resume):
        model = wrapped(load(folder / "llama", kind), prefix_dropout=0.2, **FORMS["mlp"])
        trainer = tr.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], parameters(trainer.model)

    losses, whole = trained(None)
    again, resumed = trained(str(tmp_path / "checkpoint-2"))
    assert again == losses and all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.parametrize("kind", KINDS[:2])
def test_trl_rounds_a_prefix_and_one_line_undoes_it(kind, folder, tmp_path):
    trl = pytest.importorskip("trl")
    texts = Dataset.from_list([{"prompt": "t5 t6", "completion": f" t{i} t{i + 1}"} for i in range(40, 48)])

    def trainer():
        return trl.SFTTrainer(
            load(folder / "llama", kind), trl.SFTConfig(**settings(tmp_path, per_device_train_batch_size=8)),
            train_dataset=texts, processing_class=tiny.tokenizer(),
            peft_config=prefix_peft.PrefixConfig(num_virtual_tokens=P, task_type="CAUSAL_LM"),
        )  # fmt: skip

    with pytest.warns(UserWarning, match=r"The prefix trains in torch.bfloat16, .* p.data = p.data.float\(\)"):
        trainer().train()
    exact = trainer()
    for p in exact.model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    exact.train()
    assert {parameter.dtype for parameter in parameters(exact.model).values()} == {torch.float32}
    losses = [entry["loss"] for entry in exact.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.03


@has_bitsandbytes
def test_packed_weights_are_refused_and_left_alone(folder):
    import bitsandbytes

    if not bitsandbytes.functional.has_avx512bf16():
        pytest.skip("bitsandbytes packs 4-bit weights on CPUs with AVX-512 BF16 only")
    run = load(folder / "llama", "4bit")
    with torch.no_grad():
        run(tiny.tokens(1, 3))
    with pytest.raises(ValueError, match=r"has packed the 4-bit weights of .* Load the model again and wrap it"):
        wrapped(run)
    fresh = load(folder / "llama", "4bit")
    packing = {name: module.support_avx512bf16_for_cpu for name, module in fresh.named_modules() if "_proj" in name}
    with pytest.raises(ValueError, match="No attention module"):
        wrapped(fresh, target_modules=["nowhere"])
    assert {module.support_avx512bf16_for_cpu for name, module in fresh.named_modules() if name in packing} == {True}
    base = wrapped(fresh).unload()
    after = {name: module.support_avx512bf16_for_cpu for name, module in base.named_modules() if "_proj" in name}
    assert set(packing.values()) == {True} and after == packing


@has_bitsandbytes
@each_base
@pytest.mark.parametrize("flag", ["--load-in-8bit", "--load-in-4bit"])
def test_the_command_line_quantises_its_base(flag, family, folder, tmp_path, capsys):
    data, base = str(folder / "data.jsonl"), ["--model", str(folder / family), flag]
    steps = ["--num-virtual-tokens", "3", "--max-steps", "4", "--save-steps", "2", "--learning-rate", "0.03"]
    argv = ["train", *base, "--train-file", data, "--validation-file", data, *steps, "--output-dir", str(tmp_path)]
    assert main(argv) == 0
    released = load_file(tmp_path / "adapter_model.safetensors")
    assert f"generate --model {folder / family} {flag} --adapter {tmp_path}" in capsys.readouterr().out
    assert main([*argv, "--resume-from-checkpoint", str(tmp_path / "checkpoint-2")]) == 0
    again = load_file(tmp_path / "adapter_model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in released.items())
    losses = {}
    for precision in ([flag], []):
        output = tmp_path / "scores.json"
        scored = ["--data-file", data, "--max-new-tokens", "2", "--output-file", str(output)]
        adapter = ["--model", str(folder / family), *precision, "--adapter", str(tmp_path)]
        assert main(["evaluate", *adapter, *scored]) == 0
        losses[bool(precision)] = json.loads(output.read_text())["scores"]["with prefix"]["loss"]
    log = json.loads((tmp_path / "training_log.json").read_text())["log"]
    own, other = (abs(loss - log[-1]["validation_loss"]) for loss in losses.values())
    assert own < other / 2 and (own < 1e-6 or flag == "--load-in-4bit"), "packed 4-bit weights infer in bfloat16"


def test_both_precisions_at_once_are_refused(folder, capsys):
    argv = ["inspect", "--model", str(folder / "llama"), "--load-in-8bit", "--load-in-4bit"]
    assert main(argv) == 2
    assert "--load-in-8bit and --load-in-4bit do not go together" in capsys.readouterr().err


@pytest.mark.skipif(is_bitsandbytes_available(), reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_message_says_what_to_install(folder, capsys):
    assert main(["inspect", "--model", str(folder / "llama"), "--load-in-8bit"]) == 2
    assert "pip install -U bitsandbytes" in capsys.readouterr().err
