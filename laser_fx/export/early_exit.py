"""Leaving the outermost loop as soon as the halting head says that all examples are done.

Per batch, the loop's condition alone changes: every example runs until the last one is done. Per example, rows that are
done stand still as well, see `laser_fx.export.row_masks`. Either way at least one step runs, and at most as many as the
depth says.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from torch import fx

from laser_fx.errors import ExportError, OptionError
from laser_fx.export.carries import Carried, with_carries
from laser_fx.export.halting import body_of, halting_in_body, least_steps, outermost_loop, step_read
from laser_fx.export.metadata import FileMetadata, Halt
from laser_fx.export.row_masks import freeze_finished, go_on_while, rows_of
from laser_fx.export.straight import loop_of, results_of
from laser_fx.export.writer import Writer
from laser_fx.rolled import RolledLoop

__all__ = ["HaltPer", "Halting", "free_name", "halting_value", "leave_early"]

HaltPer = Literal["batch", "example"]


@dataclass(frozen=True)
class Halting:
    """What a caller asks for.

    Args:
        output: readable name of the output that says when an example is done: logits, or truth values.
        per: ``"batch"`` or ``"example"``.
        above: the logit above which it is done, where a call does not say another.
    """

    output: str
    per: HaltPer = "batch"
    above: float = 0.0


def leave_early(graph: ir.Graph, module: fx.GraphModule, metadata: FileMetadata, asked: Halting) -> FileMetadata:
    """Rewrite a main graph so that its outermost loop ends early.

    The graph gains an optional input, the logit above which an example is done, and an output, the steps taken: int64,
    0-d per batch, (batch,) per example.

    Args:
        graph: the main graph, its outputs named.
        module: the program's top level, that it was made from.
        metadata: what the file would say about itself.
        asked: what halts, and how.

    Returns:
        the metadata of the rewritten graph.

    Raises:
        OptionError: no output has that name, or it is not (batch,), floating or bool.
        ExportError: the loop cannot be left early; names the value that is in the way.
    """
    output = _output(graph, metadata, asked)
    call, rolled = _call(module, outermost_loop(graph))
    done, above, least = halting_value(graph, metadata, asked)
    loop = outermost_loop(graph)
    steps_name = free_name("steps_taken", {str(value.name) for value in (*graph.inputs, *graph.outputs)})
    write = Writer(graph, body_of(loop), f"{loop.name}/halting/")
    if asked.per == "batch":
        _refuse_fixed_stacks(loop, rolled)
        steps = _count_until(write, loop, done, least)
    else:
        metadata = _uncoupled(graph, metadata)
        like = results_of(module)[list(graph.outputs).index(output)]
        steps = freeze_finished(write, loop, rows_of(call, rolled, like), output, done, least)
    steps.name = steps_name
    graph.outputs.append(steps)
    graph.sort()
    default = float(np.float32(asked.above))
    halt = Halt(asked.output, asked.per, str(above.name), default, steps_name, least)
    return dataclasses.replace(metadata, halt=halt)


def halting_value(graph: ir.Graph, metadata: FileMetadata, asked: Halting) -> tuple[ir.Value, ir.Value, int]:
    """What says in the body of the outermost loop which examples are done after a step.

    Args:
        graph: the main graph, its outputs named; it gains an optional input, the logit above which one is done.
        metadata: what the file says about itself.
        asked: what halts, and how.

    Returns:
        (batch,) bool in the body; the new input; and the steps that run in any case.

    Raises:
        OptionError, ExportError: see `leave_early`.
    """
    output, loop = _output(graph, metadata, asked), outermost_loop(graph)
    above = _threshold(graph, asked, {str(value.name) for value in (*graph.inputs, *graph.outputs)})
    least = least_steps(loop)
    return halting_in_body(graph, loop, output, above), above, least


def _output(graph: ir.Graph, metadata: FileMetadata, asked: Halting) -> ir.Value:
    names = dict(metadata.outputs)
    if asked.output not in names:
        known = ", ".join(map(repr, names))
        raise OptionError(f"there is no output {asked.output!r}", where="halt", fix=f"choose among {known}")
    return next(value for value in graph.outputs if value.name == names[asked.output])


def _call(module: fx.GraphModule, loop: ir.Node) -> tuple[fx.Node, RolledLoop]:
    calls = [(node, called) for node in module.graph.nodes if (called := loop_of(node)) is not None]
    return next((node, called) for node, called in calls if called.name == loop.name)


def _threshold(graph: ir.Graph, asked: Halting, taken: set[str]) -> ir.Value:
    name = free_name("halt_above", taken)
    tensor = ir.tensor(np.array(asked.above, np.float32), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([]), const_value=tensor)
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def free_name(name: str, taken: set[str]) -> str:
    """A name that is not taken; from then on it is."""
    while name in taken:
        name = f"laser.{name}"
    taken.add(name)
    return name


def _refuse_fixed_stacks(loop: ir.Node, rolled: RolledLoop) -> None:
    """A tensor of all steps has the size that it had at capture, and an early exit makes it smaller."""
    for whole in loop.outputs[len(loop.outputs) - rolled.stacked_outputs :]:
        if whole.is_graph_output() or any(step_read(use.node) is None for use in whole.uses()):
            raise ExportError(
                f"the model reads all {rolled.trip_count} steps of a value at once, and fewer may run",
                where=str(whole.name),
                fix="return the last step's value alone, or leave halt out",
            )


def _count_until(write: Writer, loop: ir.Node, done: ir.Value, least: int) -> ir.Value:
    """End the loop when all examples are done; the steps that it took, 0-d."""
    before = ir.Value(name=f"{write.prefix}steps_before", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    after = write.node("Add", [before, write.constant(np.array(1, np.int64), "one")], "steps", ir.DataType.INT64, [])
    go_on_while(write, write.node("Not", [done], "waiting", ir.DataType.BOOL, done.shape), least)
    initial = write.constant(np.array(0, np.int64), "none")
    return with_carries(write.main, loop, [Carried("steps_taken", initial, before, after)])[0]


def _uncoupled(graph: ir.Graph, metadata: FileMetadata) -> FileMetadata:
    """Without the statistics of sites: a step measures over all rows, those that stand still too.

    Raises:
        ExportError: bases are tracked, so that rows decide for each other.
    """
    if metadata.fidelity is not None:
        raise ExportError(
            "bases are tracked over the batch: what one example needs decides how others are computed",
            where="halt_per='example'",
            fix="choose halt_per='batch', or compile with Options.exact() or basis='frozen'",
        )
    records = {value for _, value in metadata.records}
    for value in [value for value in graph.outputs if value.name in records]:
        graph.outputs.remove(value)
    return dataclasses.replace(metadata, records=())
