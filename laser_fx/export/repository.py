"""`serve_config`: a file as a model repository for NVIDIA Triton, which appears whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from laser_fx.errors import ExportError, InputError, OptionError, OutputPathError
from laser_fx.export.checksum import KEY, with_checksum
from laser_fx.export.external_data import external_files
from laser_fx.export.graphs import tensors
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.model_file import ModelFile, read_model_file
from laser_fx.export.schema import MAX_TRIPS
from laser_fx.export.triton import serve_config_of

__all__ = ["ServedModel", "serve_config"]

_MOST_ROWS = 2**31 - 1
_MOST_DELAY = 60_000_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class ServedModel:
    """What was written.

    Args:
        path: the model's folder in the repository, with config.pbtxt and a folder for each version.
        name: the model's name, by which clients ask for it.
        max_batch: most rows that Triton puts together; 0: none.
        notes: what is not served, and why.
    """

    path: Path
    name: str
    max_batch: int
    notes: tuple[str, ...]


def serve_config(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str] = "model_repository",
    *,
    name: str | None = None,
    max_batch: int = 64,
    queue_delay_us: int = 100,
    depth: int | None = None,
    fidelity: float | None = None,
    overwrite: bool = False,
) -> ServedModel:
    """Write a Triton model repository for a file.

    Args:
        file: a file that `laser_fx.export.to_onnx` wrote.
        out: the repository; made where it is missing, other models in it stay.
        name: the model's name; ``None``: the file's, without its ending.
        max_batch: most rows that Triton puts together; 0: none.
        queue_delay_us: how long a request may wait for others, in microseconds.
        depth: trips of the outermost loop in the served copy, ``None`` for the file's default.
        fidelity: threshold of the served copy in (0, 1], ``None`` for the file's default.
        overwrite: replace a model of that name.

    Raises:
        OnnxFileError: the file is missing, damaged, tampered with or foreign.
        OptionError: a name, a number of rows, a delay, a depth or a fidelity out of its range.
        InputError: a depth or a fidelity that the file does not take.
        ExportError: an input that Triton cannot be given, or a file of the form ``step``.
        OutputPathError: the repository cannot be written. What was there is left as it was.
    """
    name = Path(file).stem if name is None else name
    _check(name, max_batch, queue_delay_us)
    read = read_model_file(Path(file))
    if read.metadata.step is not None:
        raise ExportError(
            "the file is one step, which a host repeats: Triton's ONNX Runtime backend has no such host",
            where=str(file),
            fix="export the model with form='rolled', or run the file with laser_fx.export.OnnxModel",
        )
    content, metadata = _with_defaults(read, depth, fidelity)
    config = serve_config_of(name, metadata, read.model.graph, max_batch=max_batch, queue_delay_us=queue_delay_us)
    with _new_folder(Path(out), name, overwrite=overwrite) as folder:
        version = folder / "1"
        version.mkdir()
        (folder / "config.pbtxt").write_text(config.text, encoding="ascii")
        (version / "model.onnx").write_bytes(content)
        for data in external_files(tensors(read.model)):
            (version / data).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(read.path.parent / data, version / data, follow_symlinks=False)
        read_model_file(version / "model.onnx")
    return ServedModel(Path(out) / name, name, config.max_batch, config.notes)


def _check(name: str, max_batch: int, queue_delay_us: int) -> None:
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"the model's name is {name[:100]!r}", where="name", fix="letters, digits, '.', '-' and '_', no '.' first"
        )
    for value, most, where in ((max_batch, _MOST_ROWS, "max_batch"), (queue_delay_us, _MOST_DELAY, "queue_delay_us")):
        if type(value) is not int or not 0 <= value <= most:
            raise OptionError(f"{where} is {value!r}", where=where, fix=f"choose a whole number from 0 to {most:,}")


def _with_defaults(file: ModelFile, depth: int | None, fidelity: float | None) -> tuple[bytes, FileMetadata]:
    """The file with other defaults of its optional inputs; the very same bytes where there are none."""
    if depth is None and fidelity is None:
        return file.content, file.metadata
    metadata, model = file.metadata, onnx.ModelProto()
    model.CopyFrom(file.model)
    if depth is not None:
        metadata = _with_depth(metadata, model, depth, str(file.path))
    if fidelity is not None:
        _set_fidelity(metadata, model, fidelity, str(file.path))
    kept = [entry for entry in model.metadata_props if entry.key != KEY and not entry.key.startswith("laser_fx.")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in metadata.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    return with_checksum(model.SerializeToString()), metadata


def _with_depth(metadata: FileMetadata, model: onnx.ModelProto, trips: int, where: str) -> FileMetadata:
    if len(metadata.depths) != 1:
        raise InputError(f"the file has {len(metadata.depths)} depths", where=where, fix="leave depth out")
    (depth,) = metadata.depths
    if type(trips) is not int or not depth.least <= trips <= MAX_TRIPS:
        fix = f"choose a whole number from {depth.least} to {MAX_TRIPS:,}"
        raise OptionError(f"depth is {trips!r}", where="depth", fix=fix)
    _store(model, depth.input, np.array(trips, np.int64))
    loops = [{**loop, "trips": trips} if loop["name"] == depth.loop else loop for loop in metadata.loops]
    return replace(metadata, depths=(replace(depth, default=trips),), loops=tuple(loops))


def _set_fidelity(metadata: FileMetadata, model: onnx.ModelProto, fidelity: float, where: str) -> None:
    if metadata.fidelity is None:
        raise InputError("the file tracks nothing: it has no fidelity", where=where, fix="leave fidelity out")
    if type(fidelity) not in (int, float) or not 0.0 < fidelity <= 1.0:
        raise OptionError(f"fidelity is {fidelity!r}", where="fidelity", fix="choose a number in (0, 1]")
    _store(model, metadata.fidelity, np.array(fidelity, np.float32))


def _store(model: onnx.ModelProto, name: str, value: np.ndarray[tuple[()], np.dtype[np.generic]]) -> None:
    (stored,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    stored.CopyFrom(numpy_helper.from_array(value, name))


@contextmanager
def _new_folder(out: Path, name: str, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, renamed to its place at the end; whatever fails, what was there is there again."""
    target = out / name
    beside = out / f".{name}.{secrets.token_hex(4)}.tmp"
    made = False
    try:
        if target.exists() and not overwrite:
            raise OutputPathError(
                "the model is there already", where=str(target), fix="pass overwrite, or another name"
            )
        made = not out.exists()
        out.mkdir(exist_ok=True)
        beside.mkdir()
        yield beside
        _replace(beside, target)
    except OSError as error:
        if isinstance(error, OutputPathError):
            raise
        raise OutputPathError(
            f"the repository cannot be written: {error.strerror or error}", where=str(out), fix="choose another folder"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if made and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _replace(beside: Path, target: Path) -> None:
    """A folder that is not empty cannot be renamed over: the old one steps aside first, and back if need be."""
    if not target.exists():
        beside.rename(target)
        return
    aside = beside.with_suffix(".old")
    target.rename(aside)
    try:
        beside.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside)
