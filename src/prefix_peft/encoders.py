"""P_theta: what turns trained parameters into the keys and values of one site.

A flat encoder is P itself. An MLP encoder is the reparametrisation of section 4.3 of the paper,
P_theta[i, :] = MLP_theta(P'_theta[i, :]): one trunk (P' and the first linear map) is shared by all sites, and the last
linear map is split into one head per site, which is exact, so that each site computes its own P where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from .anatomy.sites import Site
from .gathering import is_dtensor


class FlatEncoder(nn.Module):
    """P itself: keys (G, P, D_k) and values (G, P, D_v), and a gate where the prefix starts shut.

    It is made empty; `initialize` or a file fills it.
    """

    def __init__(self, site: Site, length: int, *, gate: bool | str) -> None:
        super().__init__()
        heads = site.num_key_value_heads
        self.p_key: nn.Parameter = nn.Parameter(torch.zeros(heads, length, site.key_dim, dtype=torch.float32))
        self.p_value: nn.Parameter = nn.Parameter(torch.zeros(heads, length, site.value_dim, dtype=torch.float32))
        self.p_gate: nn.Parameter | None = _shut_gate(gate, heads, length)

    def forward(self) -> tuple[Tensor, Tensor]:
        """P_K (G, P, D_k) and P_V (G, P, D_v)."""
        return self.p_key, self.p_value

    @torch.no_grad()
    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Become these keys (G, P, D_k) and values (G, P, D_v)."""
        self.p_key.copy_(keys)
        self.p_value.copy_(values)


class Trunk(nn.Module):
    """What all sites share: P' (P, m), Linear, tanh. Returns (P, m)."""

    def __init__(self, length: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding: nn.Parameter = nn.Parameter(torch.randn(length, hidden_size, dtype=torch.float32))
        self.linear: nn.Linear = nn.Linear(hidden_size, hidden_size, dtype=torch.float32)

    def forward(self) -> Tensor:
        if is_dtensor(self.embedding):
            raise ValueError(
                "the MLP's shared part is sharded together with one layer, out of reach of the others. Shard it as a "
                "module of its own, before the layers: fully_shard(module) for each prefix_peft.encoders.Trunk (in "
                "Accelerate's config: fsdp_transformer_layer_cls_to_wrap: the layer's class, and Trunk)."
            )
        return torch.tanh(self.linear(self.embedding))


class MLPEncoder(nn.Module):
    """One site's share of the MLP: the head (m -> G x (D_k + D_v)) on the shared trunk, which the first site owns."""

    def __init__(self, site: Site, length: int, trunk: Trunk, *, owns_trunk: bool, gate: bool | str) -> None:
        super().__init__()
        self.length: int = length
        self.heads: int = site.num_key_value_heads
        self.dims: tuple[int, int] = (site.key_dim, site.value_dim)
        self.head: nn.Linear = nn.Linear(trunk.linear.out_features, self.heads * sum(self.dims), dtype=torch.float32)
        self.p_gate: nn.Parameter | None = _shut_gate(gate, self.heads, length)
        self.trunk: Trunk | None = trunk if owns_trunk else None
        self._kept: _Kept | None = None
        self._shared = (trunk,)  # a tuple, so that only the owner registers it

    def forward(self) -> tuple[Tensor, Tensor]:
        """P_K (G, P, D_k) and P_V (G, P, D_v); computed once, and again when a parameter has changed, in eval mode."""
        if self.training or (torch.is_grad_enabled() and self.head.weight.requires_grad) or is_compiling():
            self._kept = None
            return self._compute()
        kept = self._kept  # read once: another thread may forget it meanwhile
        if kept is None or not kept.holds(self._parameters_of_p()):
            kept = self._kept = _Kept(self._parameters_of_p(), self._compute())
        return kept.result

    def _compute(self) -> tuple[Tensor, Tensor]:
        return self.split(self.head(self.shared_trunk().to(self.head.weight.device)))

    def _parameters_of_p(self) -> list[Tensor]:
        return [*self.shared_trunk.parameters(), *self.head.parameters()]

    def split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The head's output (P or more, G x (D_k + D_v)) as P_K (G, P, D_k) and P_V (G, P, D_v)."""
        both = output[: self.length].unflatten(-1, (self.heads, sum(self.dims))).transpose(0, 1)
        p_key, p_value = both.split(self.dims, dim=-1)
        return p_key, p_value

    @torch.no_grad()
    def center(self, keys: Tensor, values: Tensor) -> None:
        """Let the output vary about the mean over P of these keys (G, P, D_k) and values (G, P, D_v)."""
        self.head.bias.copy_(torch.cat([keys, values], dim=-1).mean(dim=1).flatten())

    @property
    def shared_trunk(self) -> Trunk:
        return self._shared[0]


class _Kept:
    """A result, and the state of the parameters from which it came."""

    def __init__(self, parameters: list[Tensor], result: tuple[Tensor, Tensor]) -> None:
        self.result = result
        self.state, self.last = _state(parameters), parameters[-1].detach().clone()

    def holds(self, parameters: list[Tensor]) -> bool:
        """Whether they are what they were. Who writes through ``.data`` leaves no mark, but moves the last bias too."""
        return self.state == _state(parameters) and torch.equal(self.last, parameters[-1])


def _state(parameters: list[Tensor]) -> list[tuple[int, int]]:
    return [(parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version) for parameter in parameters]


Encoder = FlatEncoder | MLPEncoder


def gate_shape(gate: bool | str, heads: int, length: int) -> tuple[int, ...]:
    """Of the gate of one site: (G,), or (G, P) where each virtual token has its own."""
    return (heads, length) if gate == "token" else (heads,)


def _shut_gate(gate: bool | str, heads: int, length: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(gate_shape(gate, heads, length), dtype=torch.float32)) if gate else None
