"""The halting head inside the loop: what a model's output says of its last step, computed at every step.

A model returns its halting logits once, made from what its outermost loop ends with. The nodes between the loop and
that output are cloned into the loop's body, where they read this step's values instead: final carries become next
carries, the last step of a scan output becomes this step's value, and all else is captured from the main graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from laser_fx.errors import ExportError, OptionError
from laser_fx.export.onnx_loops import loops_of
from laser_fx.export.writer import Writer

__all__ = [
    "ancestors",
    "body_of",
    "carry_count",
    "halting_in_body",
    "is_last_step",
    "least_steps",
    "outermost_loop",
    "step_read",
]

_FLOATING = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
_LEADING_BODY_INPUTS = 2  # the step's number and the condition
_LEADING_LOOP_INPUTS = 2  # the trip count and the condition
_SCOPE = "halting/"


def outermost_loop(graph: ir.Graph) -> ir.Node:
    """The one outermost ``Loop`` of a main graph.

    Raises:
        ExportError: there is none, or more than one.
    """
    loops = loops_of(graph)
    if len(loops) == 1:
        return loops[0]
    if not loops:
        raise ExportError("there is no loop to leave early", where="halt", fix="leave halt out")
    names = ", ".join(str(loop.name) for loop in loops)
    raise ExportError(
        f"there are {len(loops)} outermost loops: it is not said which of them halts",
        where=names,
        fix="leave halt out, or export the model's loops one by one",
    )


def body_of(loop: ir.Node) -> ir.Graph:
    """The body of a ``Loop``: (step, condition, *carry) → (condition, *next carry, *scan outputs)."""
    return loop.attributes["body"].as_graph()


def carry_count(loop: ir.Node) -> int:
    """How many values a ``Loop`` carries: they are its first outputs, its scan outputs come after them."""
    return len(body_of(loop).inputs) - _LEADING_BODY_INPUTS


def step_read(node: ir.Node) -> int | None:
    """The step that a node takes of a scan output, counted from the end where negative; ``None``: not one step."""
    index = node.inputs[1] if node.op_type == "Gather" and node.domain == "" else None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    tensor = None if index is None or axis else ir.convenience.get_const_tensor(index)
    return None if tensor is None or tensor.numpy().shape else int(tensor.numpy())


def is_last_step(node: ir.Node) -> bool:
    """Whether a node that reads a scan output takes its last step, however many there are."""
    return step_read(node) == -1


def least_steps(loop: ir.Node) -> int:
    """Steps that have to run so that every step which is read one by one exists."""
    uses = [use.node for whole in loop.outputs[carry_count(loop) :] for use in whole.uses()]
    steps = [step for node in uses if (step := step_read(node)) is not None]
    return max([1, *(step + 1 if step >= 0 else -step for step in steps)])


def halting_in_body(graph: ir.Graph, loop: ir.Node, output: ir.Value, threshold: ir.Value | None = None) -> ir.Value:
    """Compute a model's halting output at every step.

    The body gains nodes and no output: the value that is given back is for the caller to use. Nodes of the main graph
    are sorted, since the body may capture what stood behind the loop before.

    Args:
        graph: the main graph.
        loop: its only outermost ``Loop``.
        output: an output of the graph, (batch,): logits of which more than the threshold means done, or bool, done.
        threshold: a 0-d float32 value of the main graph; ``None`` for 0. True counts as 1.

    Returns:
        a bool value (batch,) in the loop's body, true where an example is done after this step.

    Raises:
        OptionError: the output is not (batch,), or neither floating nor bool.
        ExportError: there is no outermost loop or more than one, or the output is not made from what the loop's last
            step leaves and from what no step changes.

    >>> z, logits = ir.val("z", ir.DataType.FLOAT, ["batch"]), ir.val("logits", ir.DataType.FLOAT, ["batch"])
    >>> step, go_on = ir.val("step", ir.DataType.INT64, []), ir.val("go_on", ir.DataType.BOOL, [])
    >>> old, following = ir.val("old", ir.DataType.FLOAT, [None]), ir.val("following", ir.DataType.FLOAT, [None])
    >>> nodes = [ir.node("Identity", [go_on]), ir.node("Exp", [old], outputs=[following])]
    >>> body = ir.Graph([step, go_on, old], [nodes[0].outputs[0], following], nodes=nodes)
    >>> loop = ir.node("Loop", [None, None, z], {"body": body}, num_outputs=1, name="loop_0")
    >>> head = ir.node("Neg", [loop.outputs[0]], outputs=[logits], name="head")
    >>> main = ir.Graph([z], [logits], nodes=[loop, head], opset_imports={"": 20})
    >>> done = halting_in_body(main, loop, logits)
    >>> [node.op_type for node in body], done.producer().op_type
    (['Identity', 'Exp', 'Neg', 'Greater'], 'Greater')
    """
    if outermost_loop(graph) is not loop:
        raise ExportError("the loop is not the graph's outermost one", where=str(loop.name), fix="pass that one")
    _check_logits(graph, output)
    values = _values_in_body(loop)
    body, prefix = body_of(loop), f"{loop.name}/{_SCOPE}"
    for node in _slice(graph, loop, output):
        if node.outputs[0] not in values:
            body.append(_clone(node, values, prefix))
    if output not in values:  # the loop's own result
        raise _all_steps(output.name, "all steps")
    done = _above(Writer(graph, body, prefix), values[output], threshold)
    graph.sort()
    return done


def _check_logits(graph: ir.Graph, output: ir.Value) -> None:
    shapes = [value.shape for value in graph.inputs if value.shape is not None]
    leading = {_said(shape[0]) for shape in shapes if shape.rank()} - {"?"}
    shape = None if output.shape is None else [_said(size) for size in output.shape]
    if output not in graph.outputs or shape is None or len(shape) != 1 or shape[0] not in leading:
        raise OptionError(
            f"the halting output has the shape ({', '.join(shape or ['?'])}), not (batch,)",
            where=f"halt={output.name!r}",
            fix="name an output with one logit, or one truth value, for each example",
        )
    if output.dtype is not ir.DataType.BOOL and output.dtype not in _FLOATING:
        raise OptionError(
            f"the halting output is {output.dtype}, neither floating nor bool",
            where=f"halt={output.name!r}",
            fix="name logits, of which more than 0 means done, or truth values",
        )


def _said(size: int | ir.SymbolicDim) -> str:
    return str(size if isinstance(size, int) else size.value or "?")


def _values_in_body(loop: ir.Node) -> dict[ir.Value, ir.Value]:
    """Of what the main graph reads of the loop: carries, and last steps of scan outputs, as this step has them."""
    count, results = carry_count(loop), body_of(loop).outputs[1:]
    values = dict(zip(loop.outputs[:count], results[:count], strict=True))
    for whole, this_step in zip(loop.outputs[count:], results[count:], strict=True):
        values |= {use.node.outputs[0]: this_step for use in whole.uses() if is_last_step(use.node)}
    return values


def _slice(graph: ir.Graph, loop: ir.Node, output: ir.Value) -> Iterator[ir.Node]:
    """Nodes between the loop and the output, in order.

    Raises:
        ExportError: one of them cannot be had in the body.
    """
    above = ancestors(output) - {loop}
    graph.sort()
    after: set[ir.Node | None] = {loop}
    for node in graph:
        if node in above and any(value.producer() in after for value in _read_by(node)):
            _refuse_branches(node)
            _check_node(loop, node)
            after.add(node)
            yield node
    if output.producer() not in after:
        raise ExportError(
            "the halting output does not depend on the loop: it is the same after every step",
            where=f"halt={output.name!r}",
            fix="name an output that the loop makes, or leave halt out",
        )


def ancestors(value: ir.Value) -> set[ir.Node]:
    """All nodes that a value is made by, those whose results a body captures too."""
    found: set[ir.Node] = set()
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending += [read.producer() for read in _read_by(node)]
    return found


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs of a node, and all that is read in graphs inside of it."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        inside = [attribute.as_graph()] if attribute.type is ir.AttributeType.GRAPH else []
        inside += attribute.as_graphs() if attribute.type is ir.AttributeType.GRAPHS else []
        for graph in inside:
            yield from graph.outputs
            for below in graph:
                yield from _read_by(below)


def _refuse_branches(node: ir.Node) -> None:
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        raise ExportError(
            f"the halting output passes through {node.op_type}, which cannot be copied into the loop",
            where=str(node.name),
            fix="compute it in the model from the loop's results, without branches and loops",
        )


def _check_node(loop: ir.Node, node: ir.Node) -> None:
    """Refuse a node that reads more of a scan output than the last step."""
    stacked = loop.outputs[carry_count(loop) :]
    for value in node.inputs:
        if value in stacked and not is_last_step(node):
            reads = "another step than the last" if node.op_type == "Gather" else "all steps"
            raise _all_steps(node.name, reads)


def _all_steps(where: str | None, reads: str) -> ExportError:
    return ExportError(
        f"the halting output reads {reads} of a value that the loop collects",
        where=where,
        fix="make it from the last step alone: halting is decided at every step, and knows no others",
    )


def _clone(node: ir.Node, values: dict[ir.Value, ir.Value], prefix: str) -> ir.Node:
    """A node of the main graph in the body; what it reads there is this step's, or captured."""
    clone = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else values.get(value, value) for value in node.inputs],
        node.attributes.values(),
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        name=f"{prefix}{node.name}",
    )
    for old, new in zip(node.outputs, clone.outputs, strict=True):
        new.name, new.type = f"{prefix}{old.name}", old.type
        new.shape = None if old.shape is None else ir.Shape([s if isinstance(s, int) else None for s in old.shape])
        values[old] = new
    return clone


def _above(write: Writer, logits: ir.Value, threshold: ir.Value | None) -> ir.Value:
    """Where logits are more than the threshold; truth values without one are what they are."""
    dtype, shape = logits.dtype, logits.shape
    if dtype is ir.DataType.BOOL:
        if threshold is None:
            return logits
        dtype = ir.DataType.FLOAT
        logits = write.node("Cast", [logits], "truth", dtype, shape, to=dtype)
    assert dtype is not None  # `_check_logits` has seen it
    if threshold is None:
        threshold = write.constant(np.zeros((), dtype.numpy()), f"zero_{dtype.name.lower()}", dtype)
    elif dtype is not ir.DataType.FLOAT:
        threshold = write.node("Cast", [threshold], "threshold", dtype, [], to=dtype)
    return write.node("Greater", [logits, threshold], "done", ir.DataType.BOOL, shape)
