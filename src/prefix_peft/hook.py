"""The door: how a prefix gets into a model, and how a model's attention is found by watching it.

transformers sends every attention call through ``AttentionInterface.get_interface``. The function it returns is wrapped
there, and the wrapper looks for a prefix on the attention module that calls. Nothing else of the model changes: not its
inputs, masks, cache, ``generate``, nor the module tree above attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from itertools import count
from threading import Lock
from typing import Any, TypeGuard

from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from .attention.attend import attend_with_prefix, why_joined
from .attention.pages import read_pages
from .attention.terms import Attend, AttentionCall
from .attention.weights import prefix_weights
from .step import again, remember

CHILD = "prefix_kv"  # the name under which a PrefixLayer hangs on its attention module

Watcher = Callable[[nn.Module, Tensor, Tensor, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Call:
    """What belongs to one call of the model rather than to its modules, so that threads cannot mix it up."""

    rows: Sequence[str | None] | None = None  # the adapter of each row of the batch, None for the active ones
    lengths: Sequence[int] | None = None  # of the rows, where they lie side by side in one (continuous batching)
    # told of (module, query, key, value, turn), and no prefix is used; what it returns stands in for the attention
    watcher: Watcher | None = None
    # told of (module, why its prefix is joined to the text, '' where it is merged) besides
    witness: Callable[[nn.Module, str], None] | None = None
    # told of (module, the shares (B, H, T, P) of its attention that its virtual tokens had) besides
    observer: Callable[[nn.Module, Tensor], None] | None = None


_CALL: ContextVar[Call | None] = ContextVar("prefix_peft_call", default=None)
# How many calls with something special are open in any thread. While there is none, attention need not ask the context
# variable, which torch.compile cannot trace; the number itself it can, and guards on.
_open_calls = 0
_counting = Lock()


def no_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, turn: int) -> Tensor:
    """Zeros (B, T, H, D_v), for a watcher that does not need the attention itself."""
    return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


@contextmanager
def calling(call: Call) -> Iterator[None]:
    """Everything that attends inside the ``with`` block, in this thread or task, belongs to ``call``."""
    token = _CALL.set(call)
    _count_open(1)
    try:
        yield
    finally:
        _count_open(-1)
        _CALL.reset(token)


def _count_open(change: int) -> None:
    global _open_calls
    with _counting:
        _open_calls += change


def current_call() -> Call | None:
    """The call being served in this thread or task, or None for an ordinary one."""
    return _CALL.get() if _open_calls else None


def install() -> None:
    """Stand at the door, once per process. Attention modules without a prefix pass through unchanged."""
    original = AttentionInterface.get_interface
    if hasattr(original, "prefix_peft"):
        return

    @wraps(original)
    def get_interface(
        self: AttentionInterface, attn_implementation: str, default: Callable[..., Any]
    ) -> Callable[..., Any]:
        attend = original(self, attn_implementation, default)
        name = "eager" if attend is default else attn_implementation
        return partial(_at_the_door, attend, name, count())

    get_interface.prefix_peft = True  # pyright: ignore[reportAttributeAccessIssue]
    AttentionInterface.get_interface = get_interface


def _at_the_door(
    attend: Attend,
    implementation: str,
    turns: Iterator[int],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """What an attention module calls: ``attend`` itself, or ``attend`` with the module's prefix to the left.

    ``turns`` counts the calls of one interface. A module asks for a new one in each forward, so forwards that are
    interrupted, run again in a backward pass or run in other threads do not mix.
    """
    attention = AttentionCall(attend, implementation, module, query, key, value, attention_mask, options)
    call = current_call()
    if call is not None and call.watcher is not None:
        instead = call.watcher(module, query, key, value, next(turns))
        return attention.run() if instead is None else (instead, None)
    layer: Any = module._modules.get(CHILD)
    if layer is None or layer.disable_adapters:
        return attention.run()
    if call is None:
        like_the_last = again(layer, implementation, query, key, value, attention_mask, options)
        if like_the_last is not None:
            return like_the_last, None
    prefix = layer(query.shape[0]) if call is None else layer(query.shape[0], call.rows, call.lengths)
    if prefix is None:
        return attention.run()
    if layer.site.turns > 1:
        prefix = prefix.at_turn(next(turns), layer.site.turns)
    form = layer.attention_form()
    if call is not None and call.witness is not None:
        call.witness(module, why_joined(attention, prefix, form))
    if call is None:
        remember(layer, attention, prefix, form)
    attention = read_pages(attention)
    result = attend_with_prefix(attention, prefix, form)
    if call is not None and call.observer is not None:
        call.observer(module, prefix_weights(attention, prefix))
    return result


def add_forward_pre_hook(model: nn.Module, function: Callable[..., Any]) -> None:
    """Let ``function(model, args, kwargs)`` come before each forward pass. Harmless to repeat."""
    if function not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(function, with_kwargs=True)


def remove_forward_pre_hook(model: nn.Module, function: Callable[..., Any]) -> None:
    """Undo `add_forward_pre_hook`."""
    for handle, hook in list(model._forward_pre_hooks.items()):
        if hook is function:
            del model._forward_pre_hooks[handle], model._forward_pre_hooks_with_kwargs[handle]


def wrap_forward(module: nn.Module, function: Callable[..., Any], *given: Any) -> None:
    """Let ``function(module, forward, *given, ...)`` stand for the ``forward`` of one module."""
    module.forward = partial(function, module, module.forward, *given)


def unwrap_forward(module: nn.Module, function: Callable[..., Any]) -> None:
    """Undo `wrap_forward`. Under a hook of Accelerate's, which keeps what it found, nothing is undone."""
    if is_wrapper(vars(module).get("forward"), function):
        forward = vars(module).pop("forward").args[1]
        if getattr(forward, "__self__", None) is not module:
            module.forward = forward  # someone else's, who had put it there before


def is_wrapper(forward: Any, function: Callable[..., Any]) -> TypeGuard[partial[Any]]:
    """Whether `wrap_forward` made this one of ``function``."""
    return isinstance(forward, partial) and forward.func is function
