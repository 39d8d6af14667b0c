"""A file and its program with every floating dtype made float32: they compute the same, and every provider has kernels.

What a file says about wiring, weights and loops is checked so, as sharply as a float32 export, on machines that lack
kernels of its own dtype. What is left to the provider is the rounding of those kernels alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from laser_fx.export.graphs import graphs, nodes, tensors
from laser_fx.export.model_file import ModelFile
from laser_fx.export.source import Exportable
from laser_fx.export.step_plan import StepPlan

__all__ = ["ProgramInFloat32", "file_in_float32", "floating_dtypes", "in_float32"]

_NAMES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_OTHERS = (torch.float16, torch.bfloat16, torch.float64)
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "stash_type")
_CASTS = ("half", "bfloat16", "double")
_LIMIT = 2**31 - 1


def floating_dtypes(model: onnx.ModelProto) -> set[str]:
    """Names of the floating dtypes that a file stores, takes, gives or casts to: ``{"float32", "float16"}``."""
    found = {tensor.data_type for tensor in tensors(model)}
    found |= {kind.elem_type for kind in _tensor_types(model)}
    found |= {attribute.i for attribute in _dtype_attributes(model)}
    return {name for dtype, name in _NAMES.items() if dtype in found}


def file_in_float32(file: ModelFile) -> ModelFile | None:
    """The file with float32 in place of every other floating dtype; ``None`` where that is larger than 2 GB."""
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    for tensor in tensors(model):
        _make_float32(tensor, file.path.parent)
    for kind in _tensor_types(model):
        if kind.elem_type in _NAMES:
            kind.elem_type = TensorProto.FLOAT
    for attribute in _dtype_attributes(model):
        attribute.i = TensorProto.FLOAT
    parts = {role: made for role, part in file.parts.items() if (made := file_in_float32(part)) is not None}
    if model.ByteSize() > _LIMIT or len(parts) < len(file.parts):
        return None
    plan = file.metadata.step
    metadata = file.metadata if plan is None else replace(file.metadata, step=_signature_in_float32(plan))
    return replace(file, model=model, content=model.SerializeToString(), parts=parts, metadata=metadata)


def _signature_in_float32(plan: StepPlan) -> StepPlan:
    floating = {f"tensor({TensorProto.DataType.Name(dtype).lower()})" for dtype in _NAMES}
    told = (replace(entry, type="tensor(float)") if entry.type in floating else entry for entry in plan.signature)
    return replace(plan, signature=tuple(told))


class ProgramInFloat32:
    """A program with float32 in place of every other floating dtype; the rest of it is the program's own."""

    def __init__(self, program: Exportable) -> None:
        self._program = program

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    @cached_property
    def graph_module(self) -> fx.GraphModule:
        """The rolled graph."""
        return _graph_in_float32(self._program.graph_module)

    @cached_property
    def captured(self) -> fx.GraphModule:
        """The graph as captured."""
        return _graph_in_float32(self._program.captured)

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Every placeholder that is not an input."""
        weights = self._program.weights
        return dict(zip(weights, in_float32(weights.values()), strict=True))

    @cached_property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """What the graph was captured with."""
        return in_float32(self._program.example_inputs)


def in_float32(values: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Tensors, those of another floating dtype as float32."""
    return tuple(value.float() if value.dtype in _OTHERS else value for value in values)


def _graph_in_float32(module: fx.GraphModule) -> fx.GraphModule:
    made = copy.deepcopy(module)
    for level in made.modules():
        if isinstance(level, fx.GraphModule):
            for node in level.graph.nodes:
                node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _dtype_in_float32)
                if node.op == "call_method" and node.target in _CASTS:
                    node.target = "float"
            level.recompile()
    return made


def _dtype_in_float32(argument: Any) -> Any:
    return torch.float32 if isinstance(argument, torch.dtype) and argument in _OTHERS else argument


def _make_float32(tensor: TensorProto, folder: Path) -> None:
    if tensor.data_type in _NAMES and tensor.data_type != TensorProto.FLOAT:
        with np.errstate(over="ignore"):  # the least float64, with which masks are filled, is infinite in float32
            array = numpy_helper.to_array(tensor, base_dir=str(folder)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _dtype_attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.name in _DTYPE_ATTRIBUTES and attribute.i in _NAMES and not attribute.ref_attr_name:
                yield attribute


def _tensor_types(model: onnx.ModelProto) -> Iterator[onnx.TypeProto.Tensor]:
    values = [value for graph in graphs(model) for value in (*graph.input, *graph.output, *graph.value_info)]
    pending = [value.type for value in (*values, *(v for f in model.functions for v in f.value_info))]
    while pending:
        kind = pending.pop()
        if kind.HasField("tensor_type"):
            yield kind.tensor_type
        elif kind.HasField("sequence_type"):
            pending.append(kind.sequence_type.elem_type)
        elif kind.HasField("optional_type"):
            pending.append(kind.optional_type.elem_type)
