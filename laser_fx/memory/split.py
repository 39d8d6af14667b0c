"""Cuts a joint graph in two: a forward that returns what is kept, and a backward that makes the rest again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from laser_fx.memory.codecs import Codec
from laser_fx.memory.joint import Form, Joint, form_of
from laser_fx.memory.operators import is_random
from laser_fx.memory.products import use_fastest
from laser_fx.memory.values import Values, ancestors
from laser_fx.nodes import placeholder

__all__ = ["Compiler", "Split", "split"]


Compiler = Callable[[fx.GraphModule], Callable[..., Any]]


@dataclass(frozen=True)
class Split:
    """A segment's forward and backward.

    Args:
        forward: inputs that are tensors → outputs, then the values that are kept and are no inputs.
        backward: kept inputs, kept values, then the gradients of the differentiable outputs → gradients of the inputs.
        kept_inputs: places of the kept inputs among all inputs.
        codecs: of the kept inputs and values, in that order; None for exact.
        forms: of the kept inputs and values.
        tensors: places of the inputs that are tensors.
        differentiable: for each output whether a gradient reaches it.
        tangents: the form of each gradient that backward takes.
        wanted: places of the inputs that get a gradient; for each the gradients it is made of.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    kept_inputs: tuple[int, ...]
    codecs: tuple[Codec | None, ...]
    forms: tuple[Form, ...]
    tensors: tuple[int, ...]
    differentiable: tuple[bool, ...]
    tangents: tuple[Form, ...]
    wanted: tuple[tuple[int, frozenset[int]], ...]


def split(values: Values, kept: Mapping[fx.Node, Codec | None], compiler: Compiler | None = None) -> Split:
    """Cut along the values that are kept.

    Args:
        values: of the joint graph.
        kept: what backward gets, with codecs; everything else that it needs can be made of these.
        compiler: makes of the two graphs what runs; None runs them as they are.
    """
    joint = values.joint
    made = [node for node in kept if node.op != "placeholder"]
    given = [node for node in kept if node.op == "placeholder"]
    holders = [node for node in joint.inputs if node is not None]
    # All that is random is drawn in the forward, and as often as in eager.
    drawn = [node for node in joint.graph.nodes if is_random(node)]
    gradients = [(place, node) for place, node in enumerate(joint.gradients) if node is not None]
    backward = _part(values, [*given, *made, *joint.tangents], [node for _, node in gradients], (), "Backward")
    if values.fastest:
        use_fastest(backward.graph)
        backward.recompile()
    forward = _part(values, holders, [*joint.outputs, *made], drawn, "Forward")
    return Split(
        forward=compiler(forward) if compiler else forward,
        backward=compiler(backward) if compiler else backward,
        codecs=tuple(kept[node] for node in (*given, *made)),
        forms=tuple(form_of(node.meta["val"], False) for node in (*given, *made)),
        kept_inputs=tuple(joint.inputs.index(node) for node in given),
        tensors=tuple(place for place, node in enumerate(joint.inputs) if node is not None),
        differentiable=joint.differentiable,
        tangents=tuple(form_of(node.meta["val"], False) for node in joint.tangents),
        wanted=tuple((place, _made_of(joint, node)) for place, node in gradients),
    )


def _made_of(joint: Joint, gradient: fx.Node) -> frozenset[int]:
    sources = ancestors([gradient])
    return frozenset(place for place, tangent in enumerate(joint.tangents) if tangent in sources)


def _part(
    values: Values, inputs: Sequence[fx.Node], results: Sequence[fx.Node], besides: Sequence[fx.Node], name: str
) -> fx.GraphModule:
    """The part of the joint graph between some of its values and others.

    Args:
        besides: operators that run although nothing is made of them.
    """
    graph = fx.Graph()
    # Names are new ones throughout, so that no input of one part shadows a value of the other.
    copies = {node: placeholder(graph, node.name, node.meta["val"], False) for node in inputs}
    for node in _schedule(values, inputs, [*results, *besides]):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in results])
    graph.lint()
    return fx.GraphModule(torch.nn.Module(), graph, class_name=name)


def _schedule(values: Values, inputs: Sequence[fx.Node], results: Sequence[fx.Node]) -> list[fx.Node]:
    """What makes the results, in order; a backward makes a value again when it is first read, and not before."""
    wanted = ancestors(results, set(inputs))
    order = [node for node in values.joint.graph.nodes if node in wanted]
    reads = [node for node in order if node not in values.forward]
    if not reads:
        return order
    done, schedule = set(inputs), list[fx.Node]()
    for read in reads:
        missing = ancestors([read], done)
        schedule.extend(node for node in order if node in missing)
        done |= missing
    rest = ancestors(results, done)  # a gradient may be a value of the forward itself
    return schedule + [node for node in order if node in rest]
