"""Every request that makes no sense is refused at once, with the value and what to do instead."""

import json

import pytest

from prefix_peft import PrefixConfig

REFUSED = [
    ({"num_virtual_tokens": 0}, ValueError, "num_virtual_tokens must be at least 1, got 0"),
    ({"num_virtual_tokens": -3}, ValueError, "at least 1, got -3"),
    ({"num_virtual_tokens": 2.5}, TypeError, "whole number, got 2.5"),
    ({"num_virtual_tokens": True}, TypeError, "whole number, got True"),
    ({"encoder_hidden_size": 0}, ValueError, "encoder_hidden_size must be at least 1"),
    (
        {"num_virtual_tokens_pattern": {"attn": 0}},
        ValueError,
        r"num_virtual_tokens_pattern\['attn'\] must be at least 1",
    ),
    ({"num_virtual_tokens_pattern": {"(": 3}}, ValueError, r"no valid expression '\('"),
    ({"num_virtual_tokens_pattern": [3]}, TypeError, r"maps name patterns to lengths, got \[3\]"),
    ({"sites": ["decoder", "middle"]}, ValueError, r"sites must name some of .* got \['decoder', 'middle'\]"),
    ({"sites": []}, ValueError, "sites must name some of"),
    ({"prefix_dropout": 1.0}, ValueError, "prefix_dropout must be at least 0 and below 1, got 1.0"),
    ({"position_mode": "rotate"}, ValueError, r"unknown position_mode 'rotate'; choose from \['keep', 'shift'\]"),
    (
        {"position_mode": "shift", "num_virtual_tokens_pattern": {"attn": 3}},
        ValueError,
        "position_mode='shift' moves the text by one number",
    ),
    ({"gate": "row"}, ValueError, r"unknown gate 'row'; choose from \[False, True, 'token'\]"),
    ({"release_dtype": "int3"}, ValueError, "unknown release_dtype 'int3'; choose from"),
    ({"init_text": "  "}, ValueError, "init_text needs at least one word"),
    ({"layers_pattern": "layers"}, ValueError, "set both"),
    (
        {"target_modules": ".*attn", "layers_to_transform": 1},
        ValueError,
        "layers_to_transform counts layers for a list",
    ),
    ({"task_type": "POETRY"}, ValueError, "Invalid task type"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        PrefixConfig(**options)


def test_the_first_matching_pattern_gives_the_length():
    config = PrefixConfig(num_virtual_tokens=5, num_virtual_tokens_pattern={r"\.0\.": 3, "attn": 7})
    assert [config.length_at(name) for name in ("h.0.attn", "h.1.attn", "h.1.cross")] == [3, 7, 5]


def test_a_release_describes_p_and_remembers_how_it_was_trained(tmp_path):
    config = PrefixConfig(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=33, init_text="words")
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["prefix_projection"] is False and saved["init_text"] is None and saved["num_virtual_tokens"] == 4
    assert saved["trained_with"] == {"prefix_projection": True, "encoder_hidden_size": 33, "init_text": "words"}
    again = PrefixConfig.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == saved
    assert config.prefix_projection, "saving changes nothing in the config that is being trained with"
