"""The least fidelity that any site of a step measured, as one number that the host can compare."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from laser_fx import ops
from laser_fx.export.writer import Writer

__all__ = ["least_fidelity"]


def least_fidelity(write: Writer, records: Iterable[ir.Value]) -> ir.Value | None:
    """Write the nodes.

    Args:
        write: into the graph that makes the records.
        records: (steps..., 5) float32 each, see `laser_fx.ops.reset`.

    Returns:
        0-d float32, 0 where one is no number: a minimum may pass over NaN. ``None`` where there are no records.

    >>> graph = ir.Graph([ir.val("r", ir.DataType.FLOAT, [3, 5])], [], nodes=[], opset_imports={"": 20})
    >>> least_fidelity(Writer(graph, graph, "step/"), graph.inputs).name, [node.op_type for node in graph]
    ('step/min_fidelity', ['Gather', 'IsNaN', 'Where', 'ReduceMin', 'Min'])
    """
    column = write.constant(np.array(ops.FIDELITY, np.int64), "fidelity_column")
    least = [_least(write, record, column, number) for number, record in enumerate(records)]
    return write.node("Min", least, "min_fidelity", ir.DataType.FLOAT, []) if least else None


def _least(write: Writer, record: ir.Value, column: ir.Value, number: int) -> ir.Value:
    all_steps = write.node("Gather", [record, column], f"fidelities_{number}", ir.DataType.FLOAT, axis=-1)
    unknown = write.node("IsNaN", [all_steps], f"unknown_{number}", ir.DataType.BOOL)
    none = write.constant(np.array(0, np.float32), "no_fidelity")
    known = write.node("Where", [unknown, none, all_steps], f"known_fidelities_{number}", ir.DataType.FLOAT)
    return write.node("ReduceMin", [known], f"fidelity_{number}", ir.DataType.FLOAT, [], keepdims=0)
