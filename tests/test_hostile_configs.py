"""An ``adapter_config.json`` that somebody else wrote: what no config can hold is refused at once, by its field."""

import pytest
from test_untrusted import CONFIG, by_load_adapter, by_peft, by_transformers, refused, release

from prefix_peft import PrefixConfig


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"[" * 200_000, ValueError, "is no JSON .*recursion"),
        (b"[]", ValueError, "must hold a JSON object, got list"),
        (b'{"peft_type": 5}', ValueError, "has the peft_type 5, which must be a name"),
        ("{}".encode("utf-16"), ValueError, "is no JSON"),
        (b" " * (2**24 + 1), ValueError, "has 16,777,217 bytes; no such file has more"),
        (b'{"peft_type": "TELEPATHY"}', KeyError, "TELEPATHY"),  # PEFT's own word
    ],
)
def test_what_is_no_config_is_refused(text, error, message, tmp_path):
    path = release(tmp_path)
    (path / CONFIG).write_bytes(text)
    for loader in (by_peft, by_load_adapter, by_transformers):
        refused(loader, path, message, error)


HOSTILE = [
    ({"num_virtual_tokens": 10**12}, ValueError, "must be at most 1,048,576, got 1000000000000"),
    ({"encoder_hidden_size": 10**12, "prefix_projection": True}, ValueError, "at most 1,048,576"),
    ({"prefix_projection": True}, ValueError, "a release holds the folded prefix and no MLP"),
    ({"target_modules": "(.+)+x"}, ValueError, "can take forever on a name that it does not match"),
    ({"exclude_modules": "(a|a)*"}, ValueError, "can take forever"),
    ({"num_virtual_tokens_pattern": {r"(.*)\1x": 3}}, ValueError, "can take forever"),
    ({"num_virtual_tokens_pattern": {".*.*.*.*.*x": 3}}, ValueError, "can take forever"),
    ({"num_virtual_tokens_pattern": {f"{i}": 3 for i in range(300)}}, ValueError, "at most 256 expressions, got 300"),
    ({"num_virtual_tokens_pattern": {"a{99999999999}": 3}}, ValueError, "no valid expression .* repetition number"),
    ({"target_modules": "(" * 600}, ValueError, "no valid expression .* longer than 500 characters"),
    ({"layers_to_transform": [0], "layers_pattern": ["("]}, ValueError, "layers_pattern has no valid expression"),
    ({"target_modules": ["a"] * 10_001}, ValueError, "target_modules must have at most 10,000 entries"),
    ({"target_modules": 5}, TypeError, r"target_modules must be list\[str\] \| str \| None, got 5"),
    ({"exclude_modules": ["x", 5]}, TypeError, r"exclude_modules must be .*, got \['x', 5\]"),
    ({"modules_to_save": {"a": 1}}, TypeError, "modules_to_save must be"),
    ({"gate": 1}, TypeError, r"gate must be bool \| str, got 1"),
    ({"prefix_dropout": "0.1"}, TypeError, "prefix_dropout must be float, got '0.1'"),
    ({"prefix_dropout": float("nan")}, ValueError, "prefix_dropout must be at least 0 and below 1, got nan"),
    ({"base_fingerprint": ["x"]}, TypeError, "base_fingerprint must be"),
    ({"base_fingerprint": [float("nan")] * 9}, ValueError, "trained on another base model"),
    ({"init_text": 5}, TypeError, "init_text must be"),
    ({"auto_mapping": "os"}, TypeError, "auto_mapping must be"),
    ({"base_model_name_or_path": ["x"]}, TypeError, "base_model_name_or_path must be"),
    ({"inference_mode": "yes"}, TypeError, "inference_mode must be bool"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "error", "message"), HOSTILE, ids=[str(case[0])[:40] for case in HOSTILE])
def test_hostile_configs_are_refused(config, error, message, tmp_path):
    path = release(tmp_path, **config)
    refused(by_peft, path, message, error)
    refused(by_transformers, path, message, error)


@pytest.mark.parametrize("expression", [
    r".*\.(layers|h)\.(\d+)\..*attn", r"model\.layers\.(0|1|2|11)\.self_attn", r"(.*\.)?attn|.*cross.*|h\.\d+\.x",
    r"(?:ab)*", r"(?i)foo.*", r"[^]*+]*x\*", r"(?!.*vision).*\.self_attn", r"(?P<n>a)\(b\)\\1",
])  # fmt: skip
def test_ordinary_expressions_are_taken(expression):
    assert PrefixConfig(target_modules=expression).target_modules == expression
