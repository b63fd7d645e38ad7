"""Long texts are read in chunks: the same keys and values, and memory that grows with the chunk."""

import pytest
import tiny
import torch
import transformers as tr
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import prefix_peft
from prefix_peft import initialize_kv_prefix_from_tokens, one_pass, reading
from prefix_peft.reading import read_activations

# float32 knows an angle of 4,096 to 2 ** -12 = 2.4e-4 at best, and many tokens' errors cancel: measured 2e-5
EXACT = {"atol": 1e-4, "rtol": 0.0}
ROUNDING = {"atol": 2e-5, "rtol": 0.0}  # of activations of about 1, summed in another order


@torch.no_grad()
def test_a_prefix_of_4096_real_tokens_is_these_tokens(capsys):
    base, c, x = tiny.build("llama"), tiny.tokens(1, 4096, seed=7), tiny.tokens(1, 16)
    expected = base(torch.cat([c, x], dim=1)).logits[:, 4096:]
    assert (base(torch.cat([c[:, 512:], x], dim=1)).logits[:, -16:] - expected).abs().max() > 1e-2, "all must matter"
    model = prefix_peft.wrap(base, 4096)
    assert initialize_kv_prefix_from_tokens(model, c) == 0
    torch.testing.assert_close(model.eval()(x).logits, expected, **EXACT)
    assert "reading the tokens: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", tiny.CAUSAL)
def test_chunks_give_what_one_reading_gives(monkeypatch, family, attn_implementation):
    """Past the window of those that have one (64), and with a last chunk that is shorter."""
    model, tokens = tiny.build(family, attn_implementation=attn_implementation), tiny.tokens(1, 100, seed=7)
    expected = read_activations(model, tokens, tokens)
    lengths = chunked(monkeypatch, model, 9)
    actual = read_activations(model, tokens, tokens)
    assert max(lengths) == reading.PROBE and lengths.count(9) >= 11 and 1 in lengths
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], **ROUNDING)


def chunked(monkeypatch, model, size):
    """Read by chunks of ``size`` from now on; returns where the length of each pass is noted."""
    lengths = []

    def note(_, args, given):
        lengths.append(given["input_ids"].shape[1])

    monkeypatch.setattr(reading, "CHUNK", size)
    model.register_forward_pre_hook(note, with_kwargs=True)
    return lengths


def conv_and_attention():
    """Its convolutions go on from a state by one token only."""
    config = tr.Lfm2Config(**tiny.LLAMA_LIKE | {"hidden_size": 48, "layer_types": ["conv", "full_attention", "conv"]})
    torch.manual_seed(0)
    return tr.Lfm2ForCausalLM(config).eval()


def encoder():
    """Its tokens see those behind them as well."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 44, "intermediate_size": 31, "num_hidden_layers": 3, "num_attention_heads": 4}
    return tr.BertModel(tr.BertConfig(**tiny.TOKENS, **sizes, initializer_range=0.15)).eval()


@pytest.mark.parametrize("build", [conv_and_attention, encoder, lambda: tiny.build("bart")])
def test_models_that_cannot_go_on_are_read_at_once(monkeypatch, build):
    model, tokens = build(), tiny.tokens(1, 40, seed=7)
    expected = read_activations(model, tokens, tokens)
    lengths = chunked(monkeypatch, model, 9)
    actual = read_activations(model, tokens, tokens)
    assert lengths[-1] == 40
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], atol=0, rtol=0)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that is made inside."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return result


@pytest.mark.parametrize(("attn_implementation", "length", "chunk"), [("sdpa", 8192, 512), ("eager", 1024, 64)])
def test_what_is_held_grows_with_the_chunk_not_with_the_square_of_the_text(
    monkeypatch, attn_implementation, length, chunk
):
    """The largest is the mask or the scores of one chunk: at most heads x chunk x P."""
    model = tiny.build("llama", attn_implementation=attn_implementation)

    def largest(length, chunk):
        monkeypatch.setattr(reading, "CHUNK", chunk)
        tokens = tiny.tokens(1, length)
        with Largest() as mode:
            read_activations(model, tokens, tokens)
        return mode.numbers

    whole = largest(length, chunk)
    assert whole <= 6 * chunk * length
    assert whole == 2 * largest(length, chunk // 2) == 2 * largest(length // 2, chunk)


def test_attention_weights_are_not_kept(monkeypatch):
    kept, replaying = [], one_pass._replaying

    def note(outputs):
        kept.extend(part for parts in outputs.values() for part in tree_leaves(list(parts)))
        return replaying(outputs)

    monkeypatch.setattr(one_pass, "_replaying", note)
    model, tokens = tiny.build("llama", attn_implementation="eager"), tiny.tokens(1, 9)
    read_activations(model, tokens, tokens)
    assert [part.shape for part in kept if part is not None] == [(1, 9, 42)] * 3
