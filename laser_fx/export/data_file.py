"""Weights in a file of their own beside the model: what ONNX calls external data, for models beyond a gigabyte.

The file's name holds its digest, so a new export never writes over the weights of one that is in use: the rename of the
main file is what replaces an export, all or nothing, and only then is the old weights' file removed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from laser_fx.errors import OnnxFileError, OutputPathError
from laser_fx.export.external_data import external_files
from laser_fx.export.graphs import tensors
from laser_fx.export.part_names import part_name
from laser_fx.export.step_plan import WEIGHTS

__all__ = ["DataFile", "check_data", "data_beside", "sha256_of", "weight_bytes"]

_LEAST_BYTES = 1024
_CHUNK = 2**22


@dataclass(frozen=True)
class DataFile:
    """The weights of a file, beside it.

    Args:
        file: name in the same folder.
        sha256: of all its bytes, in hexadecimal.
    """

    file: str
    sha256: str


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


@contextmanager
def data_beside(model: ir.Model, target: Path) -> Iterator[DataFile | None]:
    """Move a model's weights to a file beside ``target``; if what follows fails, it goes again.

    Gives ``None``, and leaves no file, where no weight has a kilobyte.

    Args:
        model: its weights of a kilobyte and more become external, in place.
        target: the main file, which is about to be written.

    Raises:
        OutputPathError: the disk refuses.
    """
    made: Path | None = None
    try:
        with _folder_beside(target) as folder:
            ir.external_data.unload_from_model(model, folder, "weights", size_threshold_bytes=_LEAST_BYTES - 1)
            data = _named(folder / "weights", target)
            if data is not None:
                path = target.with_name(data.file)
                made = None if path.exists() else path
                (folder / "weights").replace(path)
                _point_to(model, data.file)
        yield data
    except BaseException as error:
        if made is not None:
            made.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, OutputPathError):
            raise OutputPathError(
                f"the weights cannot be written: {error.strerror or error}", where=str(target.parent)
            ) from error
        raise


def _named(weights: Path, target: Path) -> DataFile | None:
    if not weights.exists() or not weights.stat().st_size:
        return None
    digest = sha256_of(weights)
    return DataFile(part_name(target, WEIGHTS, digest), digest)


def check_data(data: DataFile, model: onnx.ModelProto, path: Path) -> None:
    """Refuse weights that are not those that were exported with a file; their paths were checked before.

    Raises:
        OnnxFileError: external data elsewhere, or other bytes.
    """
    found = external_files(tensors(model))
    if found != [data.file]:  # what no tensor reads was not checked, and is not opened
        raise OnnxFileError(
            f"external data is in {', '.join(found)[:100] or 'no file'}, the metadata says {data.file[:100]!r}",
            where=str(path),
            fix="export it again: it was changed after it was written",
        )
    if sha256_of(path.with_name(data.file)) != data.sha256:
        raise OnnxFileError(
            "the weights are not those that were exported with the file: their SHA-256 is another",
            where=str(path.with_name(data.file)),
            fix="copy both files of one export again, or export it again",
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OnnxFileError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise OnnxFileError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    return digest.hexdigest()


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _point_to(model: ir.Model, file: str) -> None:
    for value in model.graph.initializers.values():
        stored = value.const_value
        if isinstance(stored, ir.ExternalTensor):
            value.const_value = ir.ExternalTensor(
                file, stored.offset, stored.length, stored.dtype, shape=stored.shape, name=str(value.name), base_dir=""
            )
