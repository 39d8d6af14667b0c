"""Writes the files of the ``step`` form: the step itself, and beside it the parts, which its metadata names.

The parts' names hold their digests, and a part has one main file, so no export ever writes over a part that a file in
use belongs to: the rename of the main file is what replaces an export, all or nothing, and only then are the parts of
the old one removed. A weight that one part alone reads is in that part; one that several read is in a file of its own,
which they share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir

from laser_fx.export.part_names import part_name
from laser_fx.export.step_plan import WEIGHTS, Part
from laser_fx.files import check_target, replacing

__all__ = ["share_weights", "written_parts"]

_LEAST_SHARED = 1024
_ALIGNMENT = 64


def share_weights(models: Sequence[ir.Model], target: Path, *, everything: bool) -> tuple[str, bytes] | None:
    """Move the tensors that several models read to one file of external data.

    Args:
        models: the parts; tensors of the same bytes, dtype and shape are one weight.
        target: the main file, after which the file is named.
        everything: move those that one model reads, too.

    Returns:
        Name and content of the file, ``None`` where nothing is shared.
    """
    readers: dict[tuple[Any, ...], list[ir.Value]] = {}
    for model in models:
        for value in model.graph.initializers.values():
            if value.const_value is not None and value.const_value.nbytes >= _LEAST_SHARED:
                readers.setdefault(_content(value.const_value), []).append(value)
    shared = [values for values in readers.values() if everything or len(values) > 1]
    if not shared:
        return None
    content, offsets = bytearray(), []
    for values in shared:
        content.extend(bytes(-len(content) % _ALIGNMENT))
        offsets.append(len(content))
        content.extend(_tensor(values[0]).tobytes())
    name = part_name(target, WEIGHTS, _digest(content))
    for values, offset in zip(shared, offsets, strict=True):
        tensor = _tensor(values[0])
        shape = ir.Shape(tensor.shape.numpy())
        for value in values:
            value.const_value = ir.ExternalTensor(
                name, offset, tensor.nbytes, tensor.dtype, shape=shape, name=str(value.name), base_dir=""
            )
    return name, bytes(content)


def _content(tensor: ir.TensorProtocol) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest()


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


@contextmanager
def written_parts(
    target: Path, contents: Mapping[str, bytes], weights: tuple[str, bytes] | None
) -> Iterator[tuple[Part, ...]]:
    """Parts beside a file that is about to be written; those that were not there before go if anything fails.

    Args:
        target: the main file.
        contents: bytes of the parts by role.
        weights: name and bytes of the file that they share.

    Raises:
        OutputPathError: a part cannot be written.
    """
    parts = [*contents.items(), *([] if weights is None else [(WEIGHTS, weights[1])])]
    named = [
        (Part(role, part_name(target, role, digest := _digest(content)), digest), content) for role, content in parts
    ]
    made: list[Path] = []
    try:
        for part, content in named:
            path = target.parent / part.file
            check_target(path, overwrite=True)
            if not path.exists():
                made.append(path)
            with replacing(path, overwrite=True) as beside:
                beside.write_bytes(content)
        yield tuple(part for part, _ in named)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _digest(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()
