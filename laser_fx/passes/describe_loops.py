"""Loops of a graph as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from laser_fx.loops import Loop
from laser_fx.nodes import GRAD_ENABLED, LOOP_SOURCE
from laser_fx.rolled import RolledLoop

__all__ = ["describe_body", "describe_structured", "describe_value"]


def describe_body(name: str, trips: int, inputs: Sequence[Sequence[fx.Node]], outputs: Sequence[fx.Node]) -> Loop:
    """A loop by its body.

    Args:
        name: of the loop.
        trips: how often it runs.
        inputs: of the body: carry, per-step values, invariants.
        outputs: of the body, after the carry.
    """
    carry, per_step, invariants, step_outputs = (tuple(map(describe_value, part)) for part in (*inputs, outputs))
    return Loop(name, trips, carry, invariants, per_step, step_outputs)


def describe_structured(name: str, call: fx.Node, loop: RolledLoop, states: Mapping[str, str]) -> Loop:
    """A loop that was captured as one.

    Args:
        name: of the loop.
        call: its captured call.
        loop: what is called.
        states: captured placeholder → name of the parameter or buffer in the model.
    """
    holders = loop.body.graph.find_nodes(op="placeholder")
    results: Any = loop.body.graph.output_node().args[0]
    varying, given = loop.varying_inputs, call.args[loop.varying_arguments :]
    stored = {n: states[n.name] for n in given if isinstance(n, fx.Node) and n.op == "placeholder" and n.name in states}
    invariants = [holder for holder, n in zip(holders[varying:], given, strict=True) if n not in stored]
    inputs = (holders[: loop.carry_count], holders[loop.carry_count : varying], invariants)
    return replace(
        describe_body(name, loop.trip_count, inputs, results[loop.carry_count :]),
        parameters=tuple(stored.values()),
        source=call.meta.get(LOOP_SOURCE),
        grad_enabled=bool(call.meta[GRAD_ENABLED]),
    )


def describe_value(node: fx.Node) -> str:
    """``name: float32[s0, 36, 256]``."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return f"{node.name}: {value}"
    return f"{node.name}: {str(value.dtype).removeprefix('torch.')}[{', '.join(str(s) for s in value.shape)}]"
