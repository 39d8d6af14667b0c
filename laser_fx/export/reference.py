"""Reference batches: inputs made from a file's own shapes, or inputs and answers kept beside it as safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from laser_fx.errors import InputError, OnnxFileError
from laser_fx.export.sizes import shape_at, symbols_of
from laser_fx.files import replacing

__all__ = ["Reference", "made_inputs", "numpy_dtype", "read_reference", "write_arrays"]

Array = npt.NDArray[Any]
_INPUT, _OUTPUT = "input.", "output."
_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class Reference:
    """What a file was seen to answer.

    Args:
        inputs: arrays by input name, ``depth`` and ``fidelity`` among them where they were not the default.
        outputs: arrays by value name.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def numpy_dtype(onnx_type: str) -> np.dtype[Any]:
    """The dtype of ``tensor(float)``.

    Raises:
        InputError: numpy has no such dtype.

    >>> numpy_dtype("tensor(float)")
    dtype('float32')
    """
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(_DTYPES.get(name, name))
    except TypeError as error:
        raise InputError(f"numpy has no {name}", where=onnx_type, fix="pass torch tensors of your own") from error


def made_inputs(expected: Mapping[str, Any], sizes: Mapping[str, int] | int, *, seed: int | None) -> dict[str, Array]:
    """Inputs for a session's user inputs.

    Args:
        expected: ``onnxruntime.NodeArg`` by name.
        sizes: sizes of the open dimensions by name, or one for all of them.
        seed: of the normal values; ``None``: zeros. Whole numbers are zeros always, since only these surely are in
            range of every table; truth values are true.

    Raises:
        InputError: an open dimension without a size.
    """
    if isinstance(sizes, int):
        sizes = dict.fromkeys(symbols_of(value.shape for value in expected.values()), sizes)
    random = None if seed is None else np.random.default_rng(seed)
    return {
        name: _made(shape_at(value.shape, sizes), numpy_dtype(value.type), random) for name, value in expected.items()
    }


def _made(shape: tuple[int, ...], dtype: np.dtype[Any], random: np.random.Generator | None) -> Array:
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu" or random is None:
        return np.zeros(shape, dtype)
    return random.standard_normal(shape).astype(dtype)


def write_arrays(reference: Reference, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Write a reference batch.

    Raises:
        OutputPathError: the file cannot be written there.
    """
    arrays = {_INPUT + name: value for name, value in reference.inputs.items()}
    arrays |= {_OUTPUT + name: value for name, value in reference.outputs.items()}
    with replacing(Path(path), overwrite=overwrite) as beside:
        beside.write_bytes(safetensors.numpy.save({name: np.array(value, order="C") for name, value in arrays.items()}))
    return Path(path)


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Read a reference batch.

    Raises:
        OnnxFileError: it is missing, damaged, or not what `write_arrays` wrote.
        InputError: it holds no input or no output.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise OnnxFileError("there is no such file", where=str(path)) from error
    except OSError as error:
        raise OnnxFileError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise OnnxFileError("the file is damaged, or no safetensors", where=str(path), fix="write it again") from error
    reference = Reference(_part(arrays, _INPUT), _part(arrays, _OUTPUT))
    if not reference.outputs or len(reference.inputs) + len(reference.outputs) != len(arrays):
        raise InputError("the file is no reference batch", where=str(path), fix="write it with write_reference")
    return reference


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
