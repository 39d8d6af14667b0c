"""Reads each open size from the value that is there first.

Two inputs of a part that have a size in common are one symbol to torch's exporter, and it may read that size from
either. Where one of them is the result of a loop that the part itself feeds, the loop would wait for its own result.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from torch import Tensor, fx

__all__ = ["read_sizes_early"]


def read_sizes_early(part: ir.Graph, inputs: Sequence[fx.Node]) -> None:
    """Let every ``Shape`` that reads one open size of an input read it from the first input that has it.

    Args:
        part: a translated part.
        inputs: what its inputs stand for, in the order of the level, so that none depends on a later one.
    """
    first: dict[str, tuple[ir.Value, int]] = {}
    for value, node in zip(part.inputs, inputs, strict=True):
        for axis, size in enumerate(_sizes(node)):
            if not isinstance(size, int):
                first.setdefault(str(size), (value, axis))
    known = dict(zip(part.inputs, inputs, strict=True))
    for shape in part.all_nodes():
        read = shape.inputs[0] if shape.op_type == "Shape" else None
        one = _axis(shape) if read is not None and read in known else None
        if read is not None and one is not None:
            _read_from(shape, *first.get(str(_sizes(known[read])[one]), (read, one)))


def _read_from(node: ir.Node, value: ir.Value, axis: int) -> None:
    node.replace_input_with(0, value)
    node.attributes["start"] = ir.AttrInt64("start", axis)
    node.attributes["end"] = ir.AttrInt64("end", axis + 1)


def _axis(node: ir.Node) -> int | None:
    """The one size that it reads, ``None`` where it reads several."""
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)
    return start if start >= 0 and end == start + 1 else None


def _sizes(node: fx.Node) -> Sequence[object]:
    value = node.meta["val"]
    return tuple(value.shape) if isinstance(value, Tensor) else ()
