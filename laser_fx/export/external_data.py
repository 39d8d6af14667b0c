"""External data of a model: only plain files in the model's own folder, and only as many bytes as the tensors have."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from laser_fx.errors import OnnxFileError

__all__ = ["check_external_data", "external_files"]


def check_external_data(tensors: Iterable[onnx.TensorProto], folder: Path, where: str) -> None:
    """Refuse what would read outside ``folder``, or beyond the end of a file.

    Raises:
        OnnxFileError: naming the tensor: its path is absolute, climbs, or goes through a link; the file is missing or
            not a plain one; the bytes are not there, or not as many as shape and dtype say.
    """
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            complaint = _complaint(tensor, folder)
            if complaint:
                raise OnnxFileError(
                    f"the external data of {tensor.name[:200]!r} is refused: {complaint}",
                    where=where,
                    fix="keep the file together with its data as it was exported; do not use a file from strangers",
                )


def external_files(tensors: Iterable[onnx.TensorProto]) -> list[str]:
    """Relative paths of the files that hold external data, each once; check them first."""
    entries = [_entries(tensor) for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return list(dict.fromkeys(entry["location"] for entry in entries))


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _complaint(tensor: onnx.TensorProto, folder: Path) -> str | None:
    entries = _entries(tensor)
    location = entries.get("location", "")
    return _bad_path(location, folder) or _bad_range(tensor, entries, folder / location)


def _bad_path(location: str, folder: Path) -> str | None:
    if not location or len(location) > 1024 or not location.isprintable():
        return "it names no file"
    shown = repr(location[:100])
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor or "\\" in location:
        return f"{shown} is not relative to the model's folder"
    parts = PurePosixPath(location).parts
    if ".." in parts:
        return f"{shown} leaves the model's folder"
    here = folder
    for part in parts:
        here = here / part
        if here.is_symlink():
            return f"{shown} is, or goes through, a symbolic link"
    if not here.exists():
        return f"there is no file {shown}"
    return None if stat.S_ISREG(here.stat().st_mode) else f"{shown} is no plain file"


def _bad_range(tensor: onnx.TensorProto, entries: dict[str, str], path: Path) -> str | None:
    offset, length = entries.get("offset", "0"), entries.get("length")
    if not all(text.isdecimal() and len(text) < 19 for text in (offset, length or "0")):
        return "offset or length is no number"
    needed = _bytes(tensor)
    if needed is None:
        return "its shape or dtype is not one that is stored"
    if length is not None and int(length) != needed:
        return f"it has {int(length):,} bytes, its shape and dtype {needed:,}"
    end, size = int(offset) + needed, path.stat().st_size
    return f"the file has {size:,} bytes, the data would end at {end:,}" if end > size else None


def _bytes(tensor: onnx.TensorProto) -> int | None:
    if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return None
    try:
        width = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        return None
    count = 1
    for size in tensor.dims:
        if size < 0:
            return None
        count *= size
    return count * width
