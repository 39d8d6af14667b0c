"""A segment's forward and backward as one functional graph, traced once for each form of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from laser_fx.aside import aside
from laser_fx.memory.draws import keep_order_of_draws
from laser_fx.nodes import is_mutating

__all__ = ["Form", "Joint", "form_of", "trace_joint"]


@dataclass(frozen=True)
class Form:
    """What a trace holds for: everything about a tensor but its numbers.

    Args:
        wanted: whether its gradient is asked for.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    wanted: bool

    def empty(self) -> Tensor:
        """A new tensor of this form. Under a fake mode, a fake one."""
        made = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return made.requires_grad_(self.wanted)


@dataclass(frozen=True)
class Joint:
    """A segment and its backward as one graph of ATen operators that write into nothing.

    Args:
        graph: placeholders are the inputs, then a gradient for every differentiable output.
        inputs: placeholders of the inputs; None where the input is no tensor.
        tangents: placeholders of the gradients.
        outputs: what the segment returns.
        differentiable: for each output whether a gradient reaches it.
        gradients: for each input its gradient, None where it has none.
    """

    graph: fx.Graph
    inputs: tuple[fx.Node | None, ...]
    tangents: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    differentiable: tuple[bool, ...]
    gradients: tuple[fx.Node | None, ...]


def form_of(value: Any, wanted: bool) -> Any:
    """The form of a tensor; anything else stands for itself."""
    if not isinstance(value, Tensor):
        return value
    return Form(tuple(value.shape), value.stride(), value.dtype, value.device, wanted and _can_have_grad(value))


def _can_have_grad(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def trace_joint(segment: Callable[..., Sequence[Tensor]], forms: Sequence[Any], autocast: torch.dtype | None) -> Joint:
    """Trace forward and backward on distinct fake tensors: no number and no identity of a call is burnt in.

    Args:
        segment: takes tensors and plain values, returns tensors.
        forms: a `Form` for each tensor, the value itself for the others.
        autocast: the dtype that autocast computes in, None when it is off.
    """
    places = [i for i, form in enumerate(forms) if isinstance(form, Form)]
    device = next((form.device.type for form in forms if isinstance(form, Form)), "cpu")
    seen: list[bool] = []

    def call(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        values = list(forms)
        for place, tensor in zip(places, tensors, strict=True):
            values[place] = tensor
        # A cast that autocast keeps would be shared with other traces.
        with torch.autocast(device, autocast, enabled=autocast is not None, cache_enabled=False):
            return tuple(segment(*values))

    def both(tensors: list[Tensor], tangents: list[Tensor]) -> list[Tensor | None]:
        outputs = call(tensors)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        reached = [output for output in outputs if output.requires_grad]
        found = iter(torch.autograd.grad(reached, wanted, tangents, allow_unused=True) if reached else ())
        gradients = [next(found, None) if tensor.requires_grad else None for tensor in tensors]
        return [output.detach() for output in outputs] + gradients

    def pure(tensors: list[Tensor], tangents: list[Tensor]) -> Any:
        return graph_module(tensors, tangents)

    with aside(), FakeTensorMode(), torch.enable_grad():
        fakes = [forms[place].empty() for place in places]
        outputs = call(fakes)
        seen.extend(output.requires_grad for output in outputs)
        tangents = [torch.empty_like(output).detach() for output in outputs if output.requires_grad]
        graph_module = make_fx(both)(fakes, tangents)
        if any(is_mutating(node) for node in graph_module.graph.nodes):
            keep_order_of_draws(graph_module.graph)
            graph_module.recompile()
            with torch.no_grad():
                fixed = [fake.detach() for fake in fakes]
                graph_module = make_fx(torch.func.functionalize(pure, remove="mutations"))(fixed, tangents)
    return _joint(graph_module.graph, forms, tuple(seen))


def _joint(graph: fx.Graph, forms: Sequence[Any], differentiable: tuple[bool, ...]) -> Joint:
    _forget_detached(graph)
    holders = iter(graph.find_nodes(op="placeholder"))
    inputs = [next(holders) if isinstance(form, Form) else None for form in forms]
    results: Any = graph.output_node().args[0]
    outputs, found = results[: len(differentiable)], iter(results[len(differentiable) :])
    return Joint(
        graph=graph,
        inputs=tuple(inputs),
        tangents=tuple(holders),
        outputs=tuple(outputs),
        differentiable=differentiable,
        gradients=tuple([None if holder is None else next(found) for holder in inputs]),
    )


def _forget_detached(graph: fx.Graph) -> None:
    """Autograd detaches what it saves; here that is the value itself."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
