"""Children of modules, put there and taken away while other threads walk over them: those go on with what there was."""

from __future__ import annotations

from torch import nn


def put(parent: nn.Module, name: str, child: nn.Module) -> None:
    """As ``add_module`` does, which threads that walk over the children would not survive."""
    parent._modules = {**parent._modules, name: child}


def take(parent: nn.Module, name: str) -> None:
    """The contrary; nothing where there is no such child."""
    parent._modules = {other: child for other, child in parent._modules.items() if other != name}
