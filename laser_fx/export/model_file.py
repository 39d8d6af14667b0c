"""Reads a file of ours without trusting it: what is wrong with it is known before ONNX Runtime sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from laser_fx.errors import LaserError, OnnxFileError
from laser_fx.export.agreement import check_agreement
from laser_fx.export.checksum import has_checksum, is_unchanged
from laser_fx.export.data_file import check_data
from laser_fx.export.external_data import check_external_data
from laser_fx.export.graphs import nodes, tensors
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.part_names import part_name
from laser_fx.export.size_conditions import check_conditions
from laser_fx.export.step_agreement import check_parts
from laser_fx.export.step_plan import STEP, WEIGHTS, Part, graph_parts
from laser_fx.export.step_reading import beside, check_digest, check_weights
from laser_fx.export.told_check import check_told

__all__ = ["ModelFile", "files_beside", "read_model_file"]

_MAX_BYTES = 2**31 - 1
_MAX_PROPERTIES = 64 * 2**20
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_RUNTIME_CONFIG = "ort_config"  # ONNX Runtime can take session options from there


@dataclass(frozen=True)
class ModelFile:
    """A file that was read and checked.

    Args:
        path: where it was.
        content: its bytes; what was checked is what runs, whatever becomes of the file.
        model: its graph; external data is not in it.
        metadata: what it says about itself.
        checked: whether it bears a checksum, which then is right.
        parts: graphs in the files beside it that belong to it, by role.
    """

    path: Path
    content: bytes
    model: onnx.ModelProto
    metadata: FileMetadata
    checked: bool
    parts: Mapping[str, ModelFile] = field(default_factory=dict)


def read_model_file(path: Path) -> ModelFile:
    """Read a file that `laser_fx.export.to_onnx` wrote.

    Raises:
        OnnxFileError: it is missing, damaged, cut off, foreign or of another format; its metadata does not fit its
            graph; an operator is not from ONNX; external data would be read outside its folder; a part of it is
            missing, or that of another export.
    """
    try:
        return _checked(path)
    except OSError as error:
        what = f"the file, or one beside it, cannot be read: {error.strerror or error}"
        raise OnnxFileError(what, where=str(path)) from error


def _checked(path: Path) -> ModelFile:
    content, model = _read(path)
    metadata = FileMetadata.from_properties(_properties(model, path), str(path))
    checked = has_checksum(model)
    if checked and not is_unchanged(content):
        raise OnnxFileError(
            "the file is not as laser-fx wrote it: its checksum is another",
            where=str(path),
            fix="copy it again, or export it again; a file that was edited on purpose has to lose its checksum",
        )
    _check_graph(model, path)
    if metadata.data is not None:
        check_data(metadata.data, model, path)
    if metadata.step is None:
        check_agreement(metadata, model, str(path))
        check_conditions(metadata.conditions, _sizes(model, metadata), str(path))
        check_told(metadata, model, str(path))
        return ModelFile(path, content, model, metadata, checked)
    parts = {part.role: _part(path, part, metadata) for part in graph_parts(metadata.step)}
    models = {STEP: model, **{role: part.model for role, part in parts.items()}}
    check_weights(path, metadata.step, list(models.values()))
    check_parts(metadata, models, str(path))
    check_conditions(metadata.conditions, [value.shape for value in metadata.step.signature], str(path))
    check_told(metadata, model, str(path))
    return ModelFile(path, content, model, metadata, checked, parts)


def _sizes(model: onnx.ModelProto, metadata: FileMetadata) -> list[list[str]]:
    """The open dimensions of the caller's inputs."""
    inputs = [value for value in model.graph.input if value.name in metadata.inputs]
    return [[d.dim_param for d in value.type.tensor_type.shape.dim if d.dim_param] for value in inputs]


def _part(main: Path, part: Part, metadata: FileMetadata) -> ModelFile:
    path = beside(main, part)
    content, model = _read(path)
    check_digest(part, content, path)
    _check_graph(model, path)
    return ModelFile(path, content, model, metadata, checked=True)


def _read(path: Path) -> tuple[bytes, onnx.ModelProto]:
    content = _content(path)
    return content, _parsed(content, path)


def _check_graph(model: onnx.ModelProto, path: Path) -> None:
    _check_operators(model, path)
    check_external_data(tensors(model), path.parent, str(path))


def files_beside(path: Path) -> set[Path]:
    """Weights and parts that belong to a file that is there; of a file that is not whole none are known."""
    try:
        metadata = read_model_file(path).metadata
    except LaserError:
        return set()
    parts = () if metadata.step is None else metadata.step.parts
    data = metadata.data
    named = {part.file: part_name(path, part.role, part.sha256) for part in parts}
    named |= {} if data is None else {data.file: part_name(path, WEIGHTS, data.sha256)}
    return {path.with_name(name) for name, own in named.items() if name == own}  # those of a copy are another's


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise OnnxFileError("there is no such file", where=str(path))
    if not 0 < (size := path.stat().st_size) <= _MAX_BYTES:
        raise OnnxFileError(f"the file has {size:,} bytes: no ONNX file has", where=str(path), fix="export it again")
    return path.read_bytes()


def _parsed(content: bytes, path: Path) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise OnnxFileError("the file is damaged, cut off, or no ONNX", where=str(path), fix="copy it again") from error
    return model


def _properties(model: onnx.ModelProto, path: Path) -> dict[str, str]:
    entries = model.metadata_props
    properties = {entry.key: entry.value for entry in entries}
    if sum(len(entry.key) + len(entry.value) for entry in entries) > _MAX_PROPERTIES:
        complaint = "is larger than any that laser-fx writes"
    elif len(properties) != len(entries):
        complaint = "has a key twice"
    elif _RUNTIME_CONFIG in properties:
        complaint = f"has options for ONNX Runtime ({_RUNTIME_CONFIG})"
    else:
        return properties
    raise OnnxFileError(f"the file's metadata {complaint}", where=str(path), fix="export it again")


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Operators of ONNX and functions of the file's own, nothing that a library would have to bring along."""
    known = {*_STANDARD, *(function.domain for function in model.functions)}
    for node in nodes(model):
        if node.domain not in known:
            raise OnnxFileError(
                f"the operator {node.domain[:100]}::{node.op_type[:100]} is not from ONNX",
                where=f"{path}, node {node.name[:200]!r}",
                fix="use files that laser-fx wrote: it writes operators of ONNX alone",
            )
