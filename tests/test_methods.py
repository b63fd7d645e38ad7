"""The experiments' methods: what they train, where they start, and what they write, against loops without a cache."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from prepared import METHODS, SETTINGS, prepared, served
from torch import nn
from transformers import DynamicCache

from prefix_peft.data.batches import IGNORED
from prefix_peft.evaluation.loss import target_loss
from prefix_peft.layer import prefix_layers

TRAINED = [name for name in METHODS if name != "none"]
AT_THE_BASE = ["none", "fine_tuning", "ft_top2", "adapter", "lora", "decoupled", "peft_adaption_prompt"]
SOURCE = (4, 6)  # tokens of x in each row
STEPS = 4  # tokens to write


def filled(name, family="gpt2"):
    """With trained parameters that all matter."""
    model = prepared(name, family)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.7)
    return model


def batch(family):
    """Two pairs, the second shorter, padded on the right."""
    ids, mask = tiny.tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    ids[1, 8:], mask[1, 8:] = tiny.PAD, 0
    if family == "bart":
        return {"input_ids": ids, "attention_mask": mask, "labels": tiny.tokens(2, 6, seed=1)}
    labels = ids.masked_fill(mask == 0, IGNORED)
    for row, source in enumerate(SOURCE):
        labels[row, :source] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_on(name, model, family):
    loss, count = METHODS[name].adapt_loss(target_loss)(model, batch(family), family == "bart")
    return loss / count


@pytest.mark.parametrize(("name", "family"), served(TRAINED))
def test_all_that_is_trained_learns_and_nothing_else_changes(name, family):
    model = prepared(name, family)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trained = {key for key, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    first = loss_on(name, model, family).item()
    torch.manual_seed(0)
    model.train()
    for _ in range(4):
        optimizer.zero_grad()
        loss_on(name, model, family).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    whole = {key.replace(".trained_p_", ".p_") for key in trained}  # what is held in parts is saved as a whole
    assert changed == whole & before.keys()
    assert loss_on(name, model.eval(), family).item() < first


@pytest.mark.parametrize(("name", "family"), served(AT_THE_BASE))
def test_what_starts_at_the_base_has_its_logits(name, family):
    inputs = tiny.inputs(family)
    ours, base = prepared(name, family)(**inputs).logits, tiny.build(family)(**inputs).logits
    torch.testing.assert_close(ours, base)


@pytest.mark.parametrize("name", METHODS)
def test_each_logit_depends_on_its_token_and_those_before(name):
    model, ids = filled(name), tiny.tokens(2, 9)
    lengths = {"prompt_lengths": torch.tensor(SOURCE)} if name == "infix" else {}
    other = ids.clone()
    other[:, 5] = ids[:, 5] % 90 + 5
    logits, others = (model(input_ids=x, use_cache=False, **lengths).logits for x in (ids, other))
    assert logits.shape == (2, 9, tiny.VOCAB)
    torch.testing.assert_close(logits[:, :5], others[:, :5])
    assert (logits[:, 5:] - others[:, 5:]).abs().amax(dim=(0, 2)).gt(1e-3).all()


def search(name, model, source, num_beams):
    """Beam search on one unpadded row, each step a whole forward of each beam; as nothing ends, all beams go on."""
    seq2seq = model.config.is_encoder_decoder
    beams = [(0.0, [tiny.BOS] if seq2seq else source)]
    for _ in range(STEPS):
        candidates = []
        for score, ids in beams:
            inputs = {"input_ids": source, "decoder_input_ids": ids} if seq2seq else {"input_ids": ids}
            inputs = {key: torch.tensor([value]) for key, value in inputs.items()}
            if name == "infix" and not seq2seq:
                inputs["prompt_lengths"] = torch.tensor([len(source)])
            logits = model(**inputs, use_cache=False).logits[0, -1]
            candidates += [(score + p, [*ids, t]) for t, p in enumerate(logits.log_softmax(-1).tolist())]
        beams = sorted(candidates, reverse=True)[:num_beams]
    return beams[0]


def generated(model, rows, num_beams):
    """What the model writes, and the log-probability of each row."""
    ids = torch.tensor(rows)
    output = model.generate(
        input_ids=ids, attention_mask=(ids != tiny.PAD).long(), num_beams=num_beams, max_new_tokens=STEPS,
        do_sample=False, pad_token_id=tiny.PAD, eos_token_id=None, return_dict_in_generate=True, output_logits=True,
        output_scores=True,
    )  # fmt: skip
    greedy = torch.stack(output.logits).log_softmax(-1).amax(-1).sum(0)
    scores = greedy if num_beams == 1 else output.sequences_scores * STEPS  # which are means
    return output.sequences.tolist(), scores


@pytest.mark.parametrize(("num_beams", "short"), [(1, 7), (3, 4)])
@pytest.mark.parametrize(("name", "family"), served(METHODS))
@torch.no_grad()
def test_writes_what_a_search_without_cache_and_padding_finds(name, family, num_beams, short):
    """Of prompts of 7 tokens and of ``short``; without padding transformers leaves out the mask."""
    model, seq2seq = filled(name, family).double(), family == "bart"
    sources, pad = [tiny.tokens(7).tolist(), tiny.tokens(short, seed=1).tolist()], [tiny.PAD] * (7 - short)
    written, scores = generated(model, [sources[0], sources[1] + pad if seq2seq else pad + sources[1]], num_beams)
    (first, x), (second, y) = (search(name, model, source, num_beams) for source in sources)
    assert written == [x, y if seq2seq else pad + y]
    # transformers has its logits in float32
    torch.testing.assert_close(scores.double(), torch.tensor([first, second]).double(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_infix_is_a_cache_that_is_lengthened_behind_x():
    """Each row by itself: the base reads x but for its last token, P entries are added to its cache, then the rest."""
    infix, base, given = filled("infix").double(), tiny.build("gpt2").double(), batch("gpt2")
    ours = infix(**given, use_cache=False).logits
    for row, source in enumerate(SOURCE):
        ids, length, cache = given["input_ids"][row : row + 1], given["attention_mask"][row].sum(), DynamicCache()
        before = base(ids[:, : source - 1], past_key_values=cache).logits
        for index, layer in enumerate(prefix_layers(infix)):
            p_key, p_value = layer.encoder("default")()
            cache.update(p_key[None].double(), p_value[None].double(), index)
        places = torch.arange(source - 1, int(length))[None]
        behind = base(ids[:, source - 1 : length], past_key_values=cache, position_ids=places).logits
        torch.testing.assert_close(ours[row, :length], torch.cat([before, behind], dim=1)[0])


@torch.no_grad()
def test_labels_tell_an_infix_where_x_ends_as_its_loss_does():
    model = filled("infix")
    torch.testing.assert_close(model(**batch("gpt2")).loss, loss_on("infix", model, "gpt2"))


def test_an_infix_asks_where_x_ends():
    with pytest.raises(ValueError, match=r"say where x ends by labels, or by prompt_lengths"):
        prepared("infix")(**tiny.inputs("gpt2"))


def test_an_encoder_does_not_see_the_infix():
    sites = {layer.site.role for layer in prefix_layers(prepared("infix", "bart"))}
    assert sites == {"decoder", "cross"}


@torch.no_grad()
def test_adapters_are_residual_maps_behind_each_block():
    model, ids = filled("adapter"), tiny.tokens(2, 9)
    base = tiny.build("gpt2")
    hidden = base.transformer.wte(ids) + base.transformer.wpe(torch.arange(9))
    for index, block in enumerate(base.transformer.h):
        hidden = block(hidden)
        weights = dict(model.transformer.h[index].bottleneck.named_parameters())
        normed = F.layer_norm(hidden, (44,), weights["norm.weight"], weights["norm.bias"])
        inner = F.relu(F.linear(normed, weights["down.weight"], weights["down.bias"]))
        hidden = hidden + F.linear(inner, weights["up.weight"], weights["up.bias"])
    torch.testing.assert_close(model(ids).logits, base.lm_head(base.transformer.ln_f(hidden)))


@pytest.mark.parametrize(("family", "stack"), [("gpt2", "transformer.h"), ("bart", "model.decoder.layers")])
def test_the_top_layers_are_the_last_of_the_decoder(family, stack):
    trained = {key for key, parameter in prepared("ft_top2", family).named_parameters() if parameter.requires_grad}
    assert {key.removeprefix(f"{stack}.")[:2] for key in trained} == {"1.", "2."}


def test_no_adapter_without_layers():
    class Flat(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"Flat keeps no transformer layers in a ModuleList; choose a method"):
        METHODS["adapter"].prepare(Flat(), SETTINGS)


@torch.no_grad()
def test_adapters_behind_layers_that_return_tuples():
    model, base = filled("adapter", "t5"), tiny.build("t5")
    inputs, behind = tiny.inputs("t5"), []
    for layer in base.encoder.block:
        layer.register_forward_hook(lambda layer, args, output: behind.append(output))
    base(**inputs)
    assert isinstance(behind[0], tuple)
    first = model.encoder.block[0]
    found = []
    model.encoder.block[1].register_forward_pre_hook(lambda layer, args: found.append(args[0]))
    model(**inputs)
    torch.testing.assert_close(found[0], first.bottleneck(behind[0][0]))


@pytest.mark.parametrize(("name", "family"), served(METHODS))
def test_the_loop_and_the_decoding_find_device_and_config(name, family):
    model = prepared(name, family)
    assert model.device == torch.device("cpu")
    assert model.config.is_encoder_decoder == (family == "bart")
