"""The methods that the experiments compare, by name."""

from .adapters import add_adapters
from .decoupled import add_decoupled
from .infix import add_infix, telling_prompt_lengths
from .method import Method as Method
from .method import seeded
from .method import trained_parameters as trained_parameters
from .peers import add_adaption_prompt, add_lora, add_peft_prefix, add_peft_prefix_mlp
from .prefixes import add_prefix, add_prefix_mlp, add_prefix_scaled, add_prefix_shared
from .prompts import add_embeddings, add_prompt
from .settings import Settings as Settings
from .sizes import count_at as count_at
from .sizes import size_at as size_at
from .weights import train_everything, train_nothing, train_top_layers

_PAPER = "Li & Liang 2021"
_TOKENS, _WIDTH = "num_virtual_tokens", "encoder_hidden_size"

_ALL = (
    Method("none", "the base model as it is", 0.0, seeded(train_nothing)),
    Method("fine_tuning", f"all weights (FINE-TUNE of {_PAPER})", 2e-4, seeded(train_everything)),
    Method("ft_top2", f"the last two layers (FT-TOP2 of {_PAPER})", 5e-4, seeded(train_top_layers)),
    Method(
        "adapter", "bottleneck adapters (Lin et al. 2020, after Houlsby et al. 2019)", 1e-3, seeded(add_adapters),
        "bottleneck",
    ),
    Method("lora", "low-rank changes of weights, by PEFT (Hu et al. 2021)", 1e-3, seeded(add_lora), "rank"),
    Method("prefix", f"flat prefix, by prefix-peft ({_PAPER})", 1e-1, seeded(add_prefix), _TOKENS),
    Method(
        "prefix_scaled", "flat prefix, its tokens in units of their own size (scale_parameter), by prefix-peft", 2e-1,
        seeded(add_prefix_scaled), _TOKENS,
    ),
    Method(
        "prefix_mlp", f"prefix through an MLP, by prefix-peft ({_PAPER}, section 4.3)", 1e-3, seeded(add_prefix_mlp),
        _WIDTH,
    ),
    Method(
        "prefix_shared", "prefix whose keys and values share a latent, by prefix-peft (after Le et al. 2024)", 3e-3,
        seeded(add_prefix_shared), "latent_size",
    ),
    Method(
        "decoupled", "a memory beside attention, Prefix-Tuning+ (Wang et al. 2025)", 1e-3, seeded(add_decoupled),
        "memory_rank",
    ),
    Method(
        "infix", f"keys and values between x and y ({_PAPER}, section 7.3)", 1e-1, seeded(add_infix), _TOKENS,
        telling_prompt_lengths,
    ),
    Method(
        "embedding", f"embeddings before the text, from random words ({_PAPER}, section 7.2)", 1e-2,
        seeded(add_embeddings), _TOKENS,
    ),
    Method(
        "peft_prompt", "the same from init_text or N(0, 1), by PEFT (Lester et al. 2021)", 1e-2, seeded(add_prompt),
        _TOKENS,
    ),
    Method("peft_prefix", f"flat prefix, by PEFT ({_PAPER})", 1e-2, seeded(add_peft_prefix), _TOKENS),
    Method("peft_prefix_mlp", f"prefix through an MLP, by PEFT ({_PAPER})", 1e-3, seeded(add_peft_prefix_mlp), _WIDTH),
    Method(
        "peft_adaption_prompt", "gated prompts in a softmax of their own, by PEFT (Zhang et al. 2023)", 1e-2,
        seeded(add_adaption_prompt), _TOKENS,
    ),
)  # fmt: skip
METHODS = {method.name: method for method in _ALL}
