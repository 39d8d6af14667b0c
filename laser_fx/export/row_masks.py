"""Rows of a batch that are done stand still while the loop goes on for the others.

A mask (batch,) is carried. Of every value that the loop carries, a row that is done keeps what it has; the last step of
a value that the loop collects is taken at each row's own last step. So a row's answer is that of its own halting step,
as far as the model computes rows by themselves: verification compares it with the program at that depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx

from laser_fx.errors import ExportError
from laser_fx.export.carries import Carried, with_carries
from laser_fx.export.halting import ancestors, body_of, carry_count, is_last_step, step_read
from laser_fx.export.straight import results_of
from laser_fx.export.writer import Writer
from laser_fx.rolled import RolledLoop

__all__ = ["Rows", "freeze_finished", "go_on_while", "rows_of"]

_BOOL, _INT32, _INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64
_FIX = "choose halt_per='batch', or give the value the batch as its leading dimension"


@dataclass(frozen=True)
class Rows:
    """Which values of a loop have the batch in front.

    Args:
        carries: for each value that it carries.
        collected: for each value that it collects.
    """

    carries: tuple[bool, ...]
    collected: tuple[bool, ...]


def rows_of(call: fx.Node, rolled: RolledLoop, output: fx.Node) -> Rows:
    """What has the leading size of the halting output, by the symbols of the capture.

    Args:
        call: the loop's call.
        rolled: the loop.
        output: the halting output, (batch,).

    Raises:
        ExportError: the batch has a fixed size: nothing tells it from other sizes.
    """
    batch = output.meta["val"].shape[0]
    if type(batch) is int:
        raise ExportError(
            f"the batch has the fixed size {batch}: rows cannot be told from other dimensions",
            where=output.name,
            fix="choose halt_per='batch', or compile on example inputs that share an open leading dimension",
        )
    carries = call.args[: rolled.carry_count]
    collected = results_of(rolled.body)[rolled.carry_count :]
    return Rows(tuple(_leads(value, batch) for value in carries), tuple(_leads(value, batch) for value in collected))


def _leads(node: object, batch: torch.SymInt) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.ndim > 0 and str(value.shape[0]) == str(batch)


def freeze_finished(write: Writer, loop: ir.Node, rows: Rows, output: ir.Value, done: ir.Value, least: int) -> ir.Value:
    """Let rows that are done stand still, and end the loop when all are.

    Args:
        write: into the loop's body.
        loop: is replaced.
        rows: which of its values have the batch in front.
        output: the halting output (batch,) in the main graph.
        done: (batch,) bool in the body.
        least: steps that run before a row may be done.

    Returns:
        the steps that each row took, (batch,) int64, in the main graph.

    Raises:
        ExportError: a value that cannot be kept by rows; names it.
    """
    _refuse_unbatched(write.main, loop, rows, output)
    frozen = ir.Value(name=f"{write.prefix}done_before", type=ir.TensorType(_BOOL), shape=done.shape)
    counted = ir.Value(name=f"{write.prefix}steps_before", type=ir.TensorType(_INT64), shape=done.shape)
    running = write.node("Not", [frozen], "running", _BOOL, done.shape)
    one_more = write.node("Cast", [running], "one_more", _INT64, done.shape, to=_INT64)
    steps = write.node("Add", [counted, one_more], "steps", _INT64, done.shape)
    after = write.node("Or", [frozen, _not_too_early(write, done, least)], "done_after", _BOOL, done.shape)
    _keep_rows(write, loop, frozen)
    go_on_while(write, write.node("Not", [after], "waiting", _BOOL, done.shape), least=1)
    nothing, none = _initial(write, loop)
    more = [Carried("done", nothing, frozen, after), Carried("steps_taken", none, counted, steps)]
    _, taken = with_carries(write.main, loop, more)
    taken.shape = output.shape
    _take_own_steps(Writer(write.main, write.main, write.prefix), taken)
    return taken


def go_on_while(write: Writer, waiting: ir.Value, least: int) -> None:
    """Make it the condition of a loop that some example waits, or that a step which is needed has not run.

    Args:
        write: into the loop's body.
        waiting: (batch,) bool in the body.
        least: steps that run in any case.
    """
    count = write.node("Cast", [waiting], "waiting_count", _INT32, waiting.shape, to=_INT32)
    most = write.node("ReduceMax", [count], "waiting_most", _INT32, [], keepdims=0)
    go_on = write.node("Cast", [most], "go_on", _BOOL, [], to=_BOOL)
    if least > 1:
        go_on = write.node("Or", [go_on, _too_early(write, least)], "go_on_still", _BOOL, [])
    write.graph.outputs[0] = go_on


def _too_early(write: Writer, least: int) -> ir.Value:
    last_needed = write.constant(np.array(least - 1, np.int64), "last_needed")
    return write.node("Less", [write.graph.inputs[0], last_needed], "too_early", _BOOL, [])


def _not_too_early(write: Writer, done: ir.Value, least: int) -> ir.Value:
    if least == 1:
        return done
    late_enough = write.node("Not", [_too_early(write, least)], "late_enough", _BOOL, [])
    return write.node("And", [done, late_enough], "done_now", _BOOL, done.shape)


def _refuse_unbatched(graph: ir.Graph, loop: ir.Node, rows: Rows, output: ir.Value) -> None:
    for value, has_rows in zip(body_of(loop).inputs[2:], rows.carries, strict=True):
        if not has_rows:
            raise _unkept(value.name, "the loop carries a value for the whole batch")
    for whole, has_rows in zip(loop.outputs[carry_count(loop) :], rows.collected, strict=True):
        read = [step_read(use.node) for use in whole.uses()]
        if whole.is_graph_output() or any(step is None or step < -1 for step in read):
            raise _unkept(whole.name, "the model reads more than the last step of a value that the loop collects")
        if -1 in read and not has_rows:
            raise _unkept(whole.name, "the loop collects a value that has not the batch in front")
    for value in graph.outputs:
        leading = None if not value.shape else value.shape[0]
        if leading != output.shape[0] and loop in ancestors(value):  # type: ignore[index]
            raise _unkept(value.name, "an output is made from all examples together")


def _unkept(name: str | None, what: str) -> ExportError:
    return ExportError(f"{what}: examples cannot halt by themselves", where=name, fix=_FIX)


def _keep_rows(write: Writer, loop: ir.Node, frozen: ir.Value) -> None:
    """What the body hands on: the old rows where they are done."""
    body = body_of(loop)
    for position in range(carry_count(loop)):
        old, new = body.inputs[2 + position], body.outputs[1 + position]
        mask = _column(write, frozen, old.shape.rank() if old.shape is not None else 1)
        body.outputs[1 + position] = write.node("Where", [mask, old, new], f"kept_{position}", new.dtype, new.shape)


def _column(write: Writer, mask: ir.Value, rank: int) -> ir.Value:
    """A mask (batch,) as (batch, 1, …)."""
    if rank == 1:
        return mask
    name = f"done_before_{rank}d"
    made = [node.outputs[0] for node in write.graph if node.name == f"{write.prefix}{name}"]
    axes = write.constant(np.arange(1, rank, dtype=np.int64), f"axes_{rank}d")
    return made[0] if made else write.node("Unsqueeze", [mask, axes], name, _BOOL, [None] + [1] * (rank - 1))


def _initial(write: Writer, loop: ir.Node) -> tuple[ir.Value, ir.Value]:
    """No row is done, and no step taken: (batch,) bool and int64 in the main graph."""
    main = Writer(write.main, write.main, write.prefix)
    size = main.node("Shape", [loop.inputs[2]], "batch", _INT64, [1], start=0, end=1)
    nothing = main.node("ConstantOfShape", [size], "done_at_first", _BOOL, [None], value=ir.tensor(np.array([False])))
    none = main.node("ConstantOfShape", [size], "steps_at_first", _INT64, [None], value=ir.tensor(np.array([0])))
    return nothing, none


def _take_own_steps(main: Writer, taken: ir.Value) -> None:
    """Where the last step of a collected value is read, (steps, batch, …): each row's own last one instead."""
    loop = taken.producer()
    assert loop is not None
    collected = loop.outputs[carry_count(loop) :]
    reads = [use.node for whole in collected for use in whole.uses() if is_last_step(use.node)]
    if not reads:
        return
    where = _own_steps(main, taken)
    for node in reads:
        (old,) = node.outputs
        new = main.node("GatherND", [node.inputs[0], where], f"{node.name}/own_step", old.dtype, old.shape)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = old.name
        main.main.remove(node, safe=True)


def _own_steps(main: Writer, taken: ir.Value) -> ir.Value:
    """(batch, 2): each row's last step, and the row."""
    one, axis = main.constant(np.array(1, np.int64), "one"), main.constant(np.array([-1], np.int64), "axis")
    zero = main.constant(np.array(0, np.int64), "none")
    last = main.node("Sub", [taken, one], "last_step", _INT64, [None])
    size = main.node("Size", [taken], "rows", _INT64, [])
    number = main.node("Range", [zero, size, one], "row", _INT64, [None])
    columns = [
        main.node("Unsqueeze", [value, axis], name, _INT64, [None, 1])
        for value, name in ((last, "last_steps"), (number, "rows_in_order"))
    ]
    return main.node("Concat", columns, "own_steps", _INT64, [None, 2], axis=-1)
