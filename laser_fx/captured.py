"""What a capture gives: a flat graph, and what its placeholders and outputs stand for in the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from laser_fx.call import Call

__all__ = ["LITERAL", "Captured", "dense_order"]

LITERAL = "lifted_tensor"
"""Part of the placeholder's name of a ``torch.tensor(…)`` in the model's code."""


@dataclass(frozen=True)
class Captured:
    """One forward call as a graph.

    Args:
        graph_module: placeholders are weights, buffers and constants, then tensor inputs; returns a flat tuple.
        states: placeholder → name of the parameter or buffer in the model's state.
        constants: placeholder → tensor that the model's code made.
        inputs: placeholders of the tensor inputs, in order.
        call: the example call; its leading sizes are doubled where the caller gave a batch of one.
        guards: whether the graph holds for the captured sizes only, though a dimension looks dynamic.
        output_leaves: for each output leaf an index into the graph's outputs, or a constant.
        output_spec: the tree of the model's output.
        mutations: names of buffers that the leading outputs are copied back into.
        grad_enabled: whether gradients were on.
        doubled: whether the caller gave a batch of one, and it stands twice in ``call``.
    """

    graph_module: fx.GraphModule
    states: Mapping[str, str]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    call: Call
    guards: tuple[str, ...]
    output_leaves: tuple[tuple[int | None, Any], ...]
    output_names: tuple[str, ...]
    output_spec: pytree.TreeSpec
    mutations: tuple[str, ...]
    grad_enabled: bool
    doubled: bool = False

    @property
    def dynamic(self) -> bool:
        """Whether the shared leading dimension is free."""
        return any(isinstance(size, torch.SymInt) for val in self.input_values() for size in val.shape)

    def input_values(self) -> tuple[Tensor, ...]:
        """The fake tensors of the inputs; a free dimension is a SymInt."""
        by_name = {node.name: node.meta["val"] for node in self.graph_module.graph.find_nodes(op="placeholder")}
        return tuple(by_name[name] for name in self.inputs)

    def fixed_sizes(self, free_sizes: Sequence[tuple[str, int, str]]) -> list[str]:
        """Names of the sizes that were to stay free, and are what they were in the example: the model needs them so."""
        shapes = dict(zip(self.call.names, (value.shape for value in self.input_values()), strict=True))
        return [size for name, axis, size in free_sizes if isinstance(shapes[name][axis], int)]

    def accepts(self, call: Call) -> bool:
        """Whether this graph answers that call: same tree, constants, dtypes, devices, and sizes it holds for."""
        if call.spec != self.call.spec or call.constants != self.call.constants:
            return False
        bound: dict[str, int] = {}
        return all(
            self._accepts_tensor(actual, value, example, bound)
            for actual, value, example in zip(call.tensors, self.input_values(), self.call.tensors, strict=True)
        )

    def _accepts_tensor(self, actual: Tensor, value: Tensor, example: Tensor, bound: dict[str, int]) -> bool:
        if (actual.dtype, actual.device, actual.ndim) != (example.dtype, example.device, example.ndim):
            return False
        if dense_order(actual) != dense_order(example) or (
            self.grad_enabled and actual.requires_grad != example.requires_grad
        ):
            return False
        for size, captured, exact in zip(actual.shape, value.shape, example.shape, strict=True):
            free = isinstance(captured, torch.SymInt) and not self.guards
            # 0 and 1 are specialised by torch: a graph of a free size is known to hold from 2 on.
            if not free and size != exact:
                return False
            if free and (size < 2 or bound.setdefault(str(captured), size) != size):
                return False
        return True

    def rebuild_outputs(self, values: Sequence[Any]) -> Any:
        """The model's output, from the graph's outputs with the mutated buffers taken off."""
        leaves = [constant if index is None else values[index] for index, constant in self.output_leaves]
        return pytree.tree_unflatten(leaves, self.output_spec)


def dense_order(tensor: Tensor) -> tuple[int, ...] | None:
    """How the dimensions lie in memory, longest stride first; None for a contiguous tensor.

    A trace leaves out ``contiguous()`` where its example is contiguous.

    >>> dense_order(torch.ones(2, 3)), dense_order(torch.ones(2, 3).mT)
    (None, (1, 0))
    """
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda dimension: -strides[dimension]))
