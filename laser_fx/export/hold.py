"""A tracked step in two: one that holds the bases at hand, without a branch, and one that refreshes them.

In the first, what a site would hand on as its next basis is the basis that it was given, so that loops inside of the
step carry none, and a step returns none. The second is the step of a rolled file, but for the fidelity at which a basis
is kept: that is an input of its own, so that the host may ask for a refresh before one is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from laser_fx.export.basis_functions import DOMAIN
from laser_fx.export.onnx_loops import loops_of

__all__ = ["hold_bases", "keep_from"]

_UNBIASED = "_unbiased"


def hold_bases(graph: ir.Graph) -> None:
    """Keep every basis of a step as it is, in the graph and in the loops inside of it.

    Args:
        graph: changed in place; an output that would be the next basis becomes the graph input that is the basis.
    """
    for loop in loops_of(graph):
        hold_bases(loop.attributes["body"].as_graph())
        _carry_less(graph, loop)
    for node in list(graph):
        if node.domain == DOMAIN and (rule := _RULES.get(node.op_type.removesuffix(_UNBIASED))) is not None:
            rule(graph, node)


def keep_from(graph: ir.Graph, keep_at: ir.Value) -> None:
    """Let sites keep a basis from another fidelity on than the one below which none is used.

    Args:
        graph: changed in place, loops inside of it too.
        keep_at: 0-d float32: a basis that measures less is refreshed.
    """
    for node in [*ir.traversal.RecursiveGraphIterator(graph)]:
        if node.domain != DOMAIN:
            continue
        if node.op_type == "track":
            node.replace_input_with(_THRESHOLD_OF_TRACK, keep_at)
        elif node.op_type.removesuffix(_UNBIASED) == "output_linear":
            _refreshing(node, keep_at)


_THRESHOLD_OF_TRACK = 2


def _refreshing(node: ir.Node, keep_at: ir.Value) -> None:
    new = ir.Node(
        DOMAIN, f"refresh_{node.op_type}", [*node.inputs, keep_at], num_outputs=len(node.outputs), name=node.name
    )
    assert node.graph is not None
    node.graph.insert_after(node, new)
    _replace(node, new.outputs)


def _carry_less(graph: ir.Graph, loop: ir.Node) -> None:
    """Take out of a loop what every step hands on as it got it."""
    body = loop.attributes["body"].as_graph()
    count = len(loop.inputs) - 2
    idle = [at for at in range(count) if body.outputs[1 + at] is body.inputs[2 + at]]
    if not idle:
        return
    for at in reversed(idle):
        outside, inside = _present(loop.inputs[2 + at]), body.inputs[2 + at]
        del body.outputs[1 + at], body.inputs[2 + at]
        ir.convenience.replace_all_uses_with([inside, loop.outputs[at]], [outside, outside], True)
    kept = [at for at in range(len(loop.outputs)) if at not in idle]
    inputs = [*loop.inputs[:2], *(value for at, value in enumerate(loop.inputs[2:]) if at not in idle)]
    attributes = list(loop.attributes.values())
    new = ir.Node("", "Loop", inputs, attributes, num_outputs=len(kept), name=loop.name)
    graph.insert_after(loop, new)
    _replace(loop, new.outputs, [loop.outputs[at] for at in kept])


def _replace(node: ir.Node, by: Sequence[ir.Value], of: Sequence[ir.Value] | None = None) -> None:
    """Read other values in the place of a node's, which goes."""
    for old, new in zip(node.outputs if of is None else of, by, strict=True):
        if new.type is None:  # made just now
            new.name, new.type, new.shape = old.name, old.type, None if old.type is None else old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _call(graph: ir.Graph, like: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], count: int) -> ir.Node:
    node = ir.Node(DOMAIN, op_type, inputs, num_outputs=count, name=like.name)
    graph.insert_after(like, node)
    return node


def _track(graph: ir.Graph, node: ir.Node) -> None:
    x, q, _ = node.inputs
    new = _call(graph, node, "measure", [x, q], 2)
    z, fidelity = new.outputs
    _replace(node, [_present(q), z, fidelity, fidelity])  # the last one goes with the reset that reads it


def _reset(graph: ir.Graph, node: ir.Node) -> None:
    _, q, z, fidelity, _, _, threshold = node.inputs
    new = _call(graph, node, "held_stats", [z, fidelity, threshold], 1)
    _replace(node, [_present(q), _present(z), new.outputs[0]])


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    _replace(node, [_present(node.inputs[2])])


def _folded_linear(graph: ir.Graph, node: ir.Node) -> None:
    x, _, *bias, folded, z, _ = node.inputs
    new = _call(graph, node, f"held_linear{_ending(bias)}", [x, *bias, folded, z], 1)
    _replace(node, new.outputs)


def _output_linear(graph: ir.Graph, node: ir.Node) -> None:
    x, _, *bias, v, down, error, _, _, threshold = node.inputs
    new = _call(graph, node, f"held_output_linear{_ending(bias)}", [x, *bias, v, down, error, threshold], 2)
    y, stats = new.outputs
    _replace(node, [y, *map(_present, (v, down, error)), stats])


def _ending(bias: Sequence[object]) -> str:
    return "" if bias else _UNBIASED


def _present(value: ir.Value | None) -> ir.Value:
    assert value is not None  # the operators of a site have no optional inputs
    return value


_RULES: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    "track": _track,
    "reset": _reset,
    "fold": _fold,
    "folded_linear": _folded_linear,
    "output_linear": _output_linear,
}
