"""Metadata against graph: every name that a file tells of itself is there, and is what it is told to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from laser_fx.errors import OnnxFileError
from laser_fx.export.bodies import BODY_DOMAIN
from laser_fx.export.graphs import main_nodes
from laser_fx.export.metadata import FileMetadata

__all__ = ["check_agreement", "loop_name"]


def check_agreement(metadata: FileMetadata, model: onnx.ModelProto, where: str) -> None:
    """Refuse a file whose metadata tells of another graph.

    Raises:
        OnnxFileError: naming the first input, output, depth or loop that does not fit.
    """
    loops = _bodies if metadata.form == "functions" else _loops
    for complaint in (*_inputs(metadata, model.graph), *_outputs(metadata, model.graph), *loops(metadata, model)):
        raise OnnxFileError(
            f"the file's metadata does not fit its graph: {complaint}",
            where=where,
            fix="export it again: it was changed after it was written",
        )


def loop_name(node: onnx.NodeProto) -> str:
    """The loop that a ``Loop`` node stands for: ``loop_0/loop_0_1`` is ``loop_0_1``."""
    return node.name.rpartition("/")[2]


def _inputs(metadata: FileMetadata, graph: onnx.GraphProto) -> Iterator[str]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    needed = tuple(value.name for value in graph.input if value.name not in stored)
    optional = {value.name: value for value in graph.input if value.name in stored}
    if needed != metadata.inputs:
        yield f"its inputs are {_said(needed)}, the metadata says {_said(metadata.inputs)}"
    told = {
        **{d.input: "depth" for d in metadata.depths},
        **({metadata.fidelity: "fidelity"} if metadata.fidelity else {}),
        **({metadata.halt.above: "halt"} if metadata.halt else {}),
    }
    if told.keys() != optional.keys():
        yield f"its optional inputs are {_said(optional)}, the metadata says {_said(told)}"
    for depth in metadata.depths:
        if depth.input in stored and _scalar(stored[depth.input], np.int64) != depth.default:
            yield f"the default of {depth.input!r} is not {depth.default}"
    if metadata.fidelity in stored:
        value = _scalar(stored[metadata.fidelity], np.float32)
        if value is None or not 0.0 < value <= 1.0:
            yield "the default of the fidelity is not in (0, 1]"
    halt = metadata.halt
    if halt and halt.above in stored and _scalar(stored[halt.above], np.float32) != halt.default:
        yield f"the default of {halt.above!r} is not {halt.default}"


def _outputs(metadata: FileMetadata, graph: onnx.GraphProto) -> Iterator[str]:
    made = tuple(value.name for value in graph.output)
    if made != metadata.results:
        yield f"its outputs are {_said(made)}, the metadata says {_said(metadata.results)}"
    steps = [value for value in graph.output if metadata.halt and value.name == metadata.halt.steps]
    if any(value.type.tensor_type.elem_type != onnx.TensorProto.INT64 for value in steps):
        yield "the steps taken are not int64"


def _loops(metadata: FileMetadata, model: onnx.ModelProto) -> Iterator[str]:
    found = {loop_name(node): node for node in main_nodes(model) if node.op_type == "Loop"}
    told = {loop["name"]: loop["trips"] for loop in metadata.loops}
    if metadata.form == "rolled" and found.keys() != told.keys():
        yield f"its loops are {_said(sorted(found))}, the metadata says {_said(sorted(told))}"
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, trips in told.items():
        count = stored.get(found[name].input[0]) if name in found and found[name].input else None
        if count is not None and _scalar(count, np.int64) != trips:
            yield f"{name} does not run {trips} times"
    for depth in metadata.depths:
        if depth.loop in found and found[depth.loop].input[0] != depth.input:
            yield f"{depth.input!r} is not the depth of {depth.loop}"


def _bodies(metadata: FileMetadata, model: onnx.ModelProto) -> Iterator[str]:
    """Each loop is a function, called as often as it runs, all times in one place."""
    told = {loop["name"]: loop["trips"] for loop in metadata.loops}
    made = {function.name for function in model.functions if function.domain == BODY_DOMAIN}
    if made != told.keys():
        yield f"its loops are {_said(sorted(made))}, the metadata says {_said(sorted(told))}"
    for name, calls in _calls(model):
        if calls != told.get(name):
            yield f"{name} does not run {told.get(name)} times"


def _calls(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """How often each body is called in each place that calls it."""
    for place in (model.graph, *model.functions):
        names = Counter(node.op_type for node in place.node if node.domain == BODY_DOMAIN)
        yield from names.items()


def _scalar(tensor: onnx.TensorProto, dtype: type[np.generic]) -> float | int | None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.dims) or len(tensor.raw_data) > 8:
        return None
    try:
        array = numpy_helper.to_array(tensor)
    except (TypeError, ValueError, KeyError):
        return None
    return array.item() if array.dtype == dtype and array.shape == () else None


def _said(names: object) -> str:
    shown = ", ".join(repr(str(name)[:60]) for name in list(names)[:8])  # type: ignore[call-overload]
    return shown or "none"
