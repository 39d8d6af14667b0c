"""Gradients of a training graph on the example inputs, to compare plans by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from laser_fx.passes.cut_segments import segments_of
from laser_fx.program import Program

__all__ = ["gradients"]

_SEED = 2604


def gradients(program: Program, graph_module: fx.GraphModule) -> list[Tensor | None]:
    """The gradient of every parameter and of every input that asks for one.

    It is made of random gradients of the outputs, the same at every call.
    The loss is not known when a model is compiled. Random gradients reach all that any loss can reach. What the graph
    draws at random is the same at every call, and the caller's random state is left as it was.
    """
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(_SEED)
        asking = [t for t in (*program.weights.values(), *program.example_inputs) if t.requires_grad]
        # Leaves of their own: hooks on parameters are for the backward of the caller.
        own = {id(tensor): tensor.detach().requires_grad_() for tensor in asking}
        given = [own.get(id(value), value) for value in program.arguments(graph_module, program.example_inputs)]
        outputs = _differentiable(graph_module(*given))
        torch.manual_seed(_SEED + 1)
        tangents = [torch.randn_like(output) for output in outputs]
        found: list[Tensor | None] = list(torch.autograd.grad(outputs, [*own.values()], tangents, allow_unused=True))
    for segment in segments_of(graph_module):
        segment.finish()
    return found


def _differentiable(values: Sequence[object]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]
