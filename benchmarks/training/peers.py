"""How else training is made to keep less: what torch ships, each applied to a copy of a TRM."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch._inductor.compile_fx import compile_fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

__all__ = [
    "ATTENTION",
    "PRODUCTS",
    "compiled_by_inductor",
    "int8_saved",
    "per_block",
    "per_compiled_net_call",
    "per_net_call",
]

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
ATTENTION = (
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
)


def per_block(model: Any, saved: Iterable[Any] = ()) -> Any:
    """Every block under `torch.utils.checkpoint`, saving only the results of the operators ``saved``."""
    _wrap(model.inner.L_level.layers, saved)
    return model


def per_net_call(model: Any) -> Any:
    """Every call of the network under `torch.utils.checkpoint`."""
    _wrap([model.inner.L_level], ())
    return model


def _wrap(modules: Iterable[nn.Module], saved: Iterable[Any]) -> None:
    operators = list(saved)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # nothing is drawn in a block
    if operators:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, operators)
    for module in modules:
        module.forward = _checkpointed(module.forward, options)


def _checkpointed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    # Without gradients there is nothing to keep: a checkpoint would only cost time.
    return lambda *args: checkpoint(forward, *args, **options) if torch.is_grad_enabled() else forward(*args)


def compiled_by_inductor(model: Any, budget: float = 1.0, *, each_call: bool = False) -> Any:
    """`torch.compile`, of the whole model or of the network that its loops call, with an activation memory budget.

    A model that dynamo cannot take whole is an error: what runs uncompiled would be measured as compiled.
    """

    def backend(graph: Any, inputs: Any) -> Any:  # of its own, so that dynamo shares no code between two budgets
        with torch._functorch.config.patch(activation_memory_budget=budget):
            return compile_fx(graph, inputs)

    compiled = partial(torch.compile, backend=backend, fullgraph=True, dynamic=False)
    if not each_call:
        return compiled(model)
    network = model.inner.L_level
    network.forward = compiled(network.forward)
    return model


def per_compiled_net_call(model: Any) -> Any:
    """Every call of the network compiled, and under `torch.utils.checkpoint`."""
    return per_net_call(compiled_by_inductor(model, each_call=True))


@dataclass(frozen=True, eq=False)
class _Packed:
    """A tensor in eight bits, with a scale for each row of its last dimension."""

    numbers: Tensor
    scale: Tensor
    dtype: torch.dtype

    def unpack(self) -> Tensor:
        return (self.numbers * self.scale).to(self.dtype)


class _Int8:
    """Hooks that pack what autograd saves: each tensor once, however many operations save it.

    Parameters live anyway; row statistics, a few numbers a token, would lose much and free nothing.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self.seen: dict[tuple[Any, ...], tuple[StorageWeakRef, weakref.ref[_Packed]]] = {}

    def pack(self, tensor: Tensor) -> Tensor | _Packed:
        is_parameter = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        if is_parameter or not tensor.is_floating_point() or tensor.numel() < self.least:
            return tensor
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor._version, tensor.dtype)
        storage, packed = self.seen.get(key, (None, None))
        known = packed() if packed is not None and storage is not None and not storage.expired() else None
        if known is None:
            known = _packed(tensor.detach())
            self.seen[key] = StorageWeakRef(tensor.untyped_storage()), weakref.ref(known)
        return known

    def unpack(self, packed: Tensor | _Packed) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed.unpack()


def _packed(tensor: Tensor) -> _Packed:
    scale = (tensor.abs().amax(-1, keepdim=True) / 127).clamp(min=torch.finfo(tensor.dtype).tiny)
    return _Packed((tensor / scale).round().to(torch.int8), scale, tensor.dtype)


def int8_saved(model: Any) -> Any:
    """The model, with what autograd saves of it in eight bits."""

    def run(carry: Any, batch: Any) -> Any:
        tokens = batch["inputs"].numel()
        hooks = _Int8(least=tokens * model.config.hidden_size // 8)
        with contextlib.ExitStack() as stack:
            if torch.is_grad_enabled():
                stack.enter_context(torch.autograd.graph.saved_tensors_hooks(hooks.pack, hooks.unpack))
            return model(carry, batch)

    return run
