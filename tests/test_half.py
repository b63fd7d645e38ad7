"""Base models in half precision: the prefix stays in float32, and what is computed is as good as it was without one."""

import pytest
import tiny
import torch
import transformers as tr

import prefix_peft

P = 3
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
FORMS = {"flat": {}, "mlp": {"prefix_projection": True, "encoder_hidden_size": 13}, "gate": {"gate": True}}
# Three layers round some sixty times on the way to a logit, at random: sqrt(60) is nearly 8 (2 were measured). The way
# back is as long again, through products of two rounded factors (6 were measured). Where rounding moves a ReLU past its
# kink, one of its layer's 31 units is in or out whatever the precision: the direction is right, to a tenth.
LOGITS, GRADIENTS = 8, 24
KINKED, TENTH = ("opt", "t5"), 0.1


def run(base, family, form):
    """Logits, and the gradient of a loss by each parameter of a prefix whose content matters."""
    model, given = tiny.fill(prefix_peft.wrap(base, P, **FORMS[form]), std=0.5).eval(), tiny.inputs(family)
    logits = model(**given).logits
    labels = given.get("decoder_input_ids", given["input_ids"])
    torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()).backward()
    parameters = tiny.prefix_parameters(model)
    assert {p.dtype for p in parameters.values()} == {p.grad.dtype for p in parameters.values()} == {torch.float32}
    return model, logits.detach(), torch.cat([p.grad.flatten() for p in parameters.values()])


def error(ours, exact):
    return float((ours.float() - exact).norm() / exact.norm())


@HALVES
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_half_precision_is_as_near_to_float32_as_it_rounds(family, form, dtype):
    """The same rounded weights, computed with in half precision and in float32."""
    model, logits, gradient = run(tiny.build(family).to(dtype), family, form)
    _, exact, exact_gradient = run(tiny.build(family).to(dtype).float(), family, form)
    assert logits.dtype == dtype and exact.dtype == torch.float32
    rounded = torch.finfo(dtype).eps / 2
    assert 0 < error(logits, exact) < LOGITS * rounded
    assert 0 < error(gradient, exact_gradient) < (TENTH if family in KINKED else GRADIENTS * rounded)
    out = model.generate(
        input_ids=tiny.tokens(2, 5), max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    assert len(out.logits) == 4 and all(step.isfinite().all() for step in out.logits)


@HALVES
@pytest.mark.parametrize(("family", "auto"), [("llama", "AutoModelForCausalLM"), ("bart", "AutoModelForSeq2SeqLM")])
def test_a_model_made_in_half_precision(family, auto, dtype):
    model = prefix_peft.wrap(getattr(tr, auto).from_config(tiny.build(family).config, dtype=dtype), P)
    assert model.get_base_model().dtype == dtype
    assert {p.dtype for p in tiny.prefix_parameters(model).values()} == {torch.float32}
    assert model.eval()(**tiny.inputs(family)).logits.isfinite().all()


@HALVES
def test_steps_too_small_for_half_precision_count(dtype):
    """Each below the rounding of a number near 1, a hundred of them move the prefix; this is why it is in float32."""
    model = prefix_peft.wrap(tiny.build("llama").to(dtype), P)
    parameter = next(iter(tiny.prefix_parameters(model).values()))
    with torch.no_grad():
        parameter.fill_(1.0)
        for _ in range(100):
            parameter += torch.finfo(dtype).eps / 8
    torch.testing.assert_close(parameter.detach() - 1, torch.full_like(parameter, torch.finfo(dtype).eps * 100 / 8))
