"""What an import costs and brings, and what the package leaves alone."""

import subprocess
import sys

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

import prefix_peft
from prefix_peft.config import PREFIX_KV
from prefix_peft.plugin import register


def run(script):
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def test_the_import_is_quick_and_brings_no_metric_and_no_plot():
    script = (
        "import time, sys, peft; start = time.perf_counter(); import prefix_peft; print(time.perf_counter() - start)\n"
        "print([name for name in ('sacrebleu', 'evaluate', 'matplotlib', 'datasets', 'accelerate.test_utils')"
        " if name in sys.modules])"
    )
    seconds, modules = min(run(script).splitlines() for _ in range(3))
    assert modules == "[]"
    assert float(seconds) < 0.3


def test_what_is_public_is_a_handful():
    public = {name for name in vars(prefix_peft) if not name.startswith("_")}
    assert {"PrefixConfig", "wrap", "initialize_kv_prefix_from_tokens", "initialize_kv_prefix_from_text"} <= public


def test_the_type_is_known_to_peft_by_name_and_token():
    for name in ("PREFIX_KV", PREFIX_KV):
        assert PEFT_TYPE_TO_CONFIG_MAPPING[name] is prefix_peft.PrefixConfig
        assert PEFT_TYPE_TO_TUNER_MAPPING[name] is prefix_peft.PrefixModel
        assert PEFT_TYPE_TO_PREFIX_MAPPING[name] == PREFIX_KV.value.lower() + "_"
    assert PREFIX_KV.name == PREFIX_KV.value == "PREFIX_KV"


def test_registering_again_changes_nothing():
    before = (peft.PeftModel.set_adapter, peft.PeftConfig.from_pretrained.__func__)
    register()
    assert before == (peft.PeftModel.set_adapter, peft.PeftConfig.from_pretrained.__func__)


def test_importing_leaves_attention_alone_until_a_model_is_wrapped():
    script = (
        "import prefix_peft; from transformers.modeling_utils import AttentionInterface\n"
        "print(hasattr(AttentionInterface.get_interface, 'prefix_peft'))"
    )
    assert run(script).strip() == "False"


@pytest.mark.parametrize("method", ["set_adapter"])
def test_other_methods_of_peft_behave_as_before(method):
    import tiny

    lora = peft.get_peft_model(tiny.build("llama"), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(TypeError, match="unhashable"):
        getattr(lora, method)(["default"])
