"""From a captured graph to a rolled one that is proved equal to it: normalise, detect, reroll, certify.

A loop that was captured as one (`laser_fx.loop`) is an operation of the graph in which it stands. Once that is proved,
its body is rolled as a graph of its own, with a proof of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from laser_fx.loops import Certificate, Loop, LoopNest
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.certificate import certify
from laser_fx.passes.detect import detect
from laser_fx.passes.infra import collector_paused, rolled_loop
from laser_fx.passes.keys import is_random
from laser_fx.passes.normalise import normalise
from laser_fx.passes.reroll import Rolled, reroll
from laser_fx.rolled import RolledLoop

__all__ = ["Door", "Proved", "roll"]


@dataclass(frozen=True)
class Door:
    """What is known of a graph's inputs.

    Args:
        identities: placeholder → what tells its tensor from others, for weights, buffers and constants.
        parameters: placeholders among them that are parameters.
        states: placeholder → name of the parameter or buffer in the model.
        grad_enabled: the grad mode.
    """

    identities: Mapping[str, Hashable]
    parameters: frozenset[str]
    states: Mapping[str, str]
    grad_enabled: bool


@dataclass(frozen=True)
class _Fixed:
    """A value that is the same at every step of every loop: a weight, a constant, or what is made of them."""

    identity: Hashable
    is_parameter: bool
    state: str | None = None


@dataclass(frozen=True)
class Proved(Rolled):
    """A rolled graph that is proved equal to the captured one.

    Args:
        certificate: what the checker saw; bodies of structured loops have one of their own.
    """

    certificate: Certificate = field(default_factory=lambda: Certificate(0))


def roll(captured: fx.GraphModule, door: Door, min_trip: int, prefix: str = "loop") -> Proved:
    """Roll the loops of a graph.

    Args:
        captured: a flat graph; loops in it are those that were captured as one.
        door: what is known of its inputs.
        min_trip: shortest repetition that counts as a loop.
        prefix: names of loops begin with it.

    Raises:
        PassError: a rewrite is not proved equal to what was captured.
    """
    with collector_paused():
        view = normalise(captured.graph, door.identities, door.parameters, door.grad_enabled)
        rolled = reroll(captured, view, detect(view, min_trip), door.states, door.grad_enabled, prefix)
        proof = certify(captured, rolled.graph_module, door.identities, door.parameters, door.grad_enabled)
    bodies = _roll_bodies(captured, rolled.graph_module, door, min_trip)
    nest = LoopNest(tuple(_with_children(loop, bodies) for loop in rolled.nest.loops))
    proved = f"proved equal to the captured graph: {proof.operations} operators"
    inner = (f"{name}: {note}" for name, body in bodies.items() for note in body.notes)
    return Proved(rolled.graph_module, (*rolled.notes, proved, *inner), nest, proof)


def _roll_bodies(captured: fx.GraphModule, made: fx.GraphModule, door: Door, min_trip: int) -> dict[str, Proved]:
    """Roll the body of every loop that was captured as one. ``made`` is new: its loops get their bodies in place."""
    calls = captured.graph.find_nodes(op="call_module")
    written = {loop.body for call in calls if (loop := rolled_loop(captured, call)) is not None}
    if not written:
        return {}
    rolled: dict[str, Proved] = {}
    for loop, inner in _loops(made, _fixed_inputs(made, door)):
        if loop.body in written:
            rolled[loop.name] = roll(loop.body, inner, min_trip, loop.name)
            loop.body = rolled[loop.name].graph_module
    return rolled


def _with_children(loop: Loop, bodies: Mapping[str, Proved]) -> Loop:
    children = bodies[loop.name].nest.loops if loop.name in bodies else loop.children
    return replace(loop, children=tuple(_with_children(child, bodies) for child in children))


def _fixed_inputs(graph_module: fx.GraphModule, door: Door) -> dict[fx.Node, _Fixed]:
    names = {node.name: node for node in graph_module.graph.find_nodes(op="placeholder")}
    return {
        names[name]: _Fixed(identity, name in door.parameters, door.states.get(name))
        for name, identity in door.identities.items()
        if name in names
    }


def _loops(level: fx.GraphModule, fixed: dict[fx.Node, _Fixed]) -> Iterator[tuple[RolledLoop, Door]]:
    """Every loop of a rolled graph, and what is known of its body's inputs; before those inside it."""
    for node in level.graph.nodes:
        loop = rolled_loop(level, node)
        if loop is not None:
            body = loop.body
            inner = _fixed_in_body(node, loop, fixed)
            yield loop, _door(inner, bool(node.meta[GRAD_ENABLED]))
            if loop.body is body:
                yield from _loops(body, inner)
        elif node.op == "call_function" and node.all_input_nodes and not is_random(node):
            sources = [fixed.get(source) for source in node.all_input_nodes]
            if all(sources):
                fixed[node] = _Fixed(node, any(source.is_parameter for source in sources if source is not None))


def _fixed_in_body(call: fx.Node, loop: RolledLoop, fixed: Mapping[fx.Node, _Fixed]) -> dict[fx.Node, _Fixed]:
    holders = loop.body.graph.find_nodes(op="placeholder")[loop.varying_inputs :]
    given = call.args[loop.varying_arguments :]
    return {
        holder: fixed[node]
        for holder, node in zip(holders, given, strict=True)
        if isinstance(node, fx.Node) and node in fixed
    }


def _door(fixed: Mapping[fx.Node, _Fixed], grad_enabled: bool) -> Door:
    return Door(
        identities={node.name: known.identity for node, known in fixed.items()},
        parameters=frozenset(node.name for node, known in fixed.items() if known.is_parameter),
        states={node.name: known.state for node, known in fixed.items() if known.state is not None},
        grad_enabled=grad_enabled,
    )
