"""`OnnxModel`: runs an exported file on ONNX Runtime, with the names and structures of the model it was made from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from laser_fx.errors import InputError, OptionError
from laser_fx.export.metadata import Depth, FileMetadata
from laser_fx.export.session import open_session

__all__ = ["OnnxModel"]

_NUMPY_TYPES = {"float": "float32", "double": "float64"}


class OnnxModel:
    """A file that `laser_fx.export.to_onnx` wrote.

    Called with torch tensors or numpy arrays: one by one, by name, or in the structures (dicts, lists, dataclasses)
    that the model takes; values that are no tensors were fixed when the model was captured, and are passed over.

    Args:
        path: the file.
        providers: ONNX Runtime's execution providers by preference; ``None``: CUDA where there is one, else the CPU.

    Attributes:
        metadata: what the file says about itself.
        stats: statistics of the last call by site: (steps..., 5), columns fidelity, rank, tracked, reset, exact.

    Raises:
        OnnxFileError: the file is missing, damaged, not ONNX, or not ours.
        OptionError: a provider that this build of ONNX Runtime does not have.
        MissingDependencyError: no ONNX Runtime, or both the CPU and the GPU build.
    """

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[str] | None = None) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, providers=providers)
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata = FileMetadata.from_properties(properties, str(self.path))
        self._expected = {expected.name: expected for expected in self._session.get_inputs()}
        self.stats: dict[str, Any] = {}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the user's inputs, in order."""
        return self.metadata.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(name for name, _ in self.metadata.outputs)

    def __call__(
        self,
        *inputs: Any,
        depth: int | Mapping[str, int] | None = None,
        fidelity: float | None = None,
        **named: Any,
    ) -> dict[str, Any]:
        """Run the file.

        Args:
            inputs: tensors or structures of them, in the order of the model's arguments.
            depth: trips of the outermost loop, or trips by loop name; ``None`` for what was traced.
            fidelity: threshold in (0, 1]; ``None`` for the one that the file was exported with.
            named: inputs by name, or structures by the name of the argument.

        Returns:
            Outputs by name: torch tensors if a torch tensor came in, else numpy arrays.

        Raises:
            InputError: a missing or unknown input, a wrong shape or dtype, a depth that the file does not take.
            OptionError: a depth or a fidelity out of its range.
        """
        values = self._match(inputs, named)
        wants_torch = any(isinstance(value, Tensor) for value in values.values())
        feed = {name: _array(value) for name, value in values.items()}
        self._check(feed)
        feed |= self._depths(depth) | self._fidelity(fidelity)
        pairs = (*self.metadata.outputs, *self.metadata.records)
        results = self._session.run([value for _, value in pairs], feed)
        answers = [torch.from_numpy(np.array(result)) if wants_torch else result for result in results]
        count = len(self.metadata.outputs)
        self.stats = {key: answer for (key, _), answer in zip(self.metadata.records, answers[count:], strict=True)}
        return {name: answer for (name, _), answer in zip(self.metadata.outputs, answers[:count], strict=True)}

    def _match(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """Inputs by name: those by keyword first, the rest in order."""
        given = dict(_leaves(named, ""))
        if unknown := [name for name in given if name not in self.input_names]:
            raise InputError(
                f"there is no input {unknown[0]!r}", where=str(self.path), fix=f"choose among {self._known()}"
            )
        free = [name for name in self.input_names if name not in given]
        ordered = [value for _, value in _leaves(list(inputs), "")]
        if len(ordered) != len(free):
            raise InputError(
                f"{len(ordered)} tensors came in order, {len(free)} inputs are left",
                where=str(self.path),
                fix=f"pass one for each of {self._known()}",
            )
        return given | dict(zip(free, ordered, strict=True))

    def _known(self) -> str:
        return ", ".join(repr(name) for name in self.input_names)

    def _check(self, feed: Mapping[str, npt.NDArray[Any]]) -> None:
        symbols: dict[str, tuple[int, str]] = {}
        for name, array in feed.items():
            expected = self._expected[name]
            dtype = expected.type.removeprefix("tensor(").removesuffix(")")
            if str(array.dtype) != _NUMPY_TYPES.get(dtype, dtype):
                raise InputError(f"{name!r} is {array.dtype}, not {dtype}", where=name, fix=f"cast it to {dtype}")
            if len(array.shape) != len(expected.shape) or not all(map(_fits, array.shape, expected.shape)):
                raise InputError(f"{name!r} has shape {array.shape}", where=name, fix=f"pass {expected.shape}")
            for size, symbol in zip(array.shape, expected.shape, strict=True):
                if isinstance(symbol, str) and symbols.setdefault(symbol, (size, name))[0] != size:
                    first, other = symbols[symbol]
                    raise InputError(
                        f"{name!r} has {symbol} {size}, but {other!r} has {first}", where=name, fix="make them equal"
                    )

    def _depths(self, depth: int | Mapping[str, int] | None) -> dict[str, npt.NDArray[Any]]:
        if depth is None:
            return {}
        depths = {d.loop: d for d in self.metadata.depths}
        if not isinstance(depth, Mapping):
            if len(depths) != 1:
                known = ", ".join(depths) or "none"
                raise InputError(
                    f"depth is one number, the file takes depths of: {known}",
                    where="depth",
                    fix="pass depth={'loop_0': 4}" if depths else "export with depth_inputs=True",
                )
            depth = dict.fromkeys(depths, depth)
        return {_depth(depths, loop).input: _trips(_depth(depths, loop), trips) for loop, trips in depth.items()}

    def _fidelity(self, fidelity: float | None) -> dict[str, npt.NDArray[Any]]:
        if fidelity is None:
            return {}
        if type(fidelity) not in (int, float) or not 0.0 < fidelity <= 1.0:
            raise OptionError(f"fidelity is {fidelity!r}", where="fidelity", fix="choose a number in (0, 1]")
        if self.metadata.fidelity is None:
            raise InputError(
                "the file tracks nothing: it has no fidelity",
                where="fidelity",
                fix="leave it out, or compile in low rank",
            )
        return {self.metadata.fidelity: np.array(fidelity, np.float32)}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Tensors and arrays in a structure with their paths, ``carry.inner.z``."""
    for keys, leaf in pytree.tree_flatten_with_path(value)[0]:
        here = ".".join([*([path] if path else []), *(_key(key) for key in keys)])
        if isinstance(leaf, Tensor | np.ndarray | np.generic):
            yield here, leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                yield from _leaves(getattr(leaf, field.name), f"{here}.{field.name}")


def _key(key: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _array(value: Any) -> npt.NDArray[Any]:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    if value.dtype is torch.bfloat16:
        raise InputError("ONNX Runtime takes no bfloat16 from Python", fix="cast the tensor to float32")
    array: npt.NDArray[Any] = value.detach().cpu().numpy()
    return array


def _fits(size: int, expected: object) -> bool:
    return not isinstance(expected, int) or size == expected


def _depth(depths: Mapping[str, Depth], loop: str) -> Depth:
    if loop not in depths:
        known = ", ".join(repr(name) for name in depths) or "none"
        raise InputError(f"the depth of {loop!r} is not an input", where="depth", fix=f"choose among: {known}")
    return depths[loop]


def _trips(depth: Depth, trips: object) -> npt.NDArray[Any]:
    if not isinstance(trips, int) or isinstance(trips, bool) or trips < 1:
        raise OptionError(f"depth is {trips!r}", where=depth.input, fix="choose a whole number of at least 1")
    if trips < depth.least:
        raise OptionError(
            f"depth is {trips}, but an output is that of step {depth.least}",
            where=depth.input,
            fix=f"choose at least {depth.least}",
        )
    return np.array(trips, np.int64)
