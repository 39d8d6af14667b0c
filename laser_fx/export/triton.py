"""The configuration of a file for NVIDIA Triton's ONNX Runtime backend, as its config.pbtxt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from laser_fx.errors import ExportError, InputError
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.sizes import rows_from, shape_at, symbols_of

__all__ = ["ServeConfig", "serve_config_of"]

_TYPES: dict[int, str] = {
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.INT16: "TYPE_INT16",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
}
_OPEN = -1
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class ServeConfig:
    """A configuration.

    Args:
        text: the config.pbtxt.
        max_batch: most rows of a batch; 0: requests are not put together.
        notes: what a caller should know: what is not served, and why.
    """

    text: str
    max_batch: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Tensor:
    name: str
    type: str
    shape: Shape


def serve_config_of(
    name: str, metadata: FileMetadata, graph: onnx.GraphProto, *, max_batch: int, queue_delay_us: int
) -> ServeConfig:
    """The configuration of a file.

    Args:
        name: the model's name in the repository.
        metadata: what the file says about itself.
        graph: its main graph.
        max_batch: most rows that Triton puts together; 0: none.
        queue_delay_us: how long a request may wait for others, in microseconds.

    Raises:
        ExportError: an input that Triton cannot be given: one without dimensions.
    """
    inputs = [_tensor(value) for value in graph.input if value.name in metadata.inputs]
    served = {value for _, value in metadata.outputs}
    outputs = [_tensor(value) for value in graph.output if value.name in served]
    notes = list(_notes(metadata))
    if max_batch and (alone := _unbatched((*inputs, *outputs))):
        notes.append(
            f"{alone!r} has no leading batch dimension, or the batch in another: requests are not put together"
        )
        max_batch = 0
    if not max_batch:
        for tensor in inputs:
            if not tensor.shape:
                raise ExportError("Triton has no input without dimensions", where=tensor.name, fix="give it a batch")
        notes += [f"the output {tensor.name!r} has no dimensions: not served" for tensor in outputs if not tensor.shape]
        outputs = [tensor for tensor in outputs if tensor.shape]
    if metadata.halt is not None and metadata.halt.per == "batch" and max_batch:
        notes.append(
            "a batch halts when its slowest request is done: an answer depends on what it was put together with"
        )
    if metadata.fidelity is not None and max_batch:
        notes.append("bases are shared by a batch: an answer depends a little on the requests it was put together with")
    warm_up = _warm_up(inputs, max_batch, metadata.conditions)
    if not warm_up:
        notes.append("no warm-up: no one number may stand in every open dimension")
    lines = [*_lines(name, inputs, outputs, max_batch, queue_delay_us), *warm_up]
    return ServeConfig("\n".join(lines) + "\n", max_batch, tuple(notes))


def _notes(metadata: FileMetadata) -> Iterator[str]:
    fixed = [depth.input for depth in metadata.depths] + ([metadata.fidelity] if metadata.fidelity else [])
    fixed += [metadata.halt.above] if metadata.halt else []
    if fixed:
        yield f"{', '.join(fixed)}: no inputs in Triton, which has none without dimensions; they keep their defaults"
    if metadata.halt:
        yield f"{metadata.halt.steps}: not served"
    if metadata.records:
        yield f"statistics of {len(metadata.records)} sites are not served: they have no batch dimension"


def _tensor(value: onnx.ValueInfoProto) -> _Tensor:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TYPES:
        raise ExportError("Triton has no such dtype", where=value.name, fix="cast it in the model")
    sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in tensor.shape.dim]
    return _Tensor(value.name, _TYPES[tensor.elem_type], tuple(sizes))


def _unbatched(tensors: Sequence[_Tensor]) -> str | None:
    """The first tensor that has not the leading open dimension of the first one, and has it nowhere else."""
    leading = tensors[0].shape[:1]
    for tensor in tensors:
        if not tensor.shape or not isinstance(tensor.shape[0], str) or tensor.shape[:1] != leading:
            return tensor.name
        if any(
            isinstance(size, str) and re.search(rf"\b{re.escape(tensor.shape[0])}\b", size) for size in tensor.shape[1:]
        ):
            return tensor.name
    return None


def _lines(
    name: str, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], max_batch: int, queue_delay_us: int
) -> Iterator[str]:
    yield f"name: {_quoted(name)}"
    yield 'backend: "onnxruntime"'
    yield 'default_model_filename: "model.onnx"'
    yield f"max_batch_size: {max_batch}"
    for kind, tensors in (("input", inputs), ("output", outputs)):
        yield f"{kind} ["
        for position, tensor in enumerate(tensors):
            yield from _tensor_lines(tensor, bool(max_batch), last=position == len(tensors) - 1)
        yield "]"
    if max_batch:
        yield f"dynamic_batching {{ max_queue_delay_microseconds: {queue_delay_us} }}"


def _tensor_lines(tensor: _Tensor, is_batched: bool, *, last: bool) -> Iterator[str]:
    dims = _dims(tensor, is_batched)
    # A row that is one number: Triton's shape has at least one dimension, the model's has none besides the batch.
    shape = f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
    yield f"  {{ name: {_quoted(tensor.name)} data_type: {tensor.type} {shape} }}{'' if last else ','}"


def _dims(tensor: _Tensor, is_batched: bool) -> list[int]:
    shape = tensor.shape[1:] if is_batched else tensor.shape
    return [size if isinstance(size, int) else _OPEN for size in shape]


def _warm_up(inputs: Sequence[_Tensor], max_batch: int, conditions: Sequence[str]) -> list[str]:
    """Zeros, before the first request, in the smallest sizes that the file holds for; nothing where none is known.

    A warm-up that fails keeps Triton from serving the model at all.
    """
    try:
        symbols = symbols_of(tensor.shape for tensor in inputs)
        sizes = dict.fromkeys(symbols, rows_from(1, symbols, conditions))
        shapes = [shape_at((size or "?" for size in tensor.shape), sizes) for tensor in inputs]
    except InputError:
        return []
    rows = shapes[0][0] if max_batch else 1
    if max_batch and rows > max_batch:
        return []
    lines = [f'model_warmup [ {{ name: "zeros" batch_size: {rows}']
    for tensor, shape in zip(inputs, shapes, strict=True):
        dims = ", ".join(map(str, (shape[1:] if max_batch else shape) or [1]))
        value = f"data_type: {tensor.type} dims: [ {dims} ] zero_data: true"
        lines.append(f"  inputs {{ key: {_quoted(tensor.name)} value {{ {value} }} }}")
    return [*lines, "} ]"]


def _quoted(text: str) -> str:
    """A string of protobuf's text format: bytes that are not plain letters as octal."""
    letters = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(letters)}"'
