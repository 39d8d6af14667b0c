"""`to_onnx`: a compiled program as an ONNX file whose loops are real ``Loop`` nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnx
import onnx_ir as ir

from laser_fx.errors import ExportError, OptionError
from laser_fx.export.build import Form, build
from laser_fx.export.checksum import with_checksum
from laser_fx.export.source import Exportable
from laser_fx.export.verify import Verification, verify_file
from laser_fx.files import check_target, replacing

__all__ = ["OnnxFile", "to_onnx"]

_LEAST_OPSET = 20
_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class OnnxFile:
    """A file that was written.

    Args:
        path: where it is.
        bytes: its size.
        nodes: how many nodes it has, those inside loops counted once.
        form: ``"rolled"``, ``"functions"`` or ``"unrolled"``.
        verification: what was compared with the program, ``None`` where the caller asked for no check.
    """

    path: Path
    bytes: int
    nodes: int
    form: str
    verification: Verification | None


def to_onnx(
    program: Exportable,
    path: str | os.PathLike[str],
    *,
    form: Form = "rolled",
    depth_inputs: bool = True,
    verify: bool = True,
    overwrite: bool = False,
    opset: int = _LEAST_OPSET,
) -> OnnxFile:
    """Write a program as ONNX, checked against the program itself before the file appears.

    The file's inputs are the user's, by their readable names, then optional ones: ``fidelity`` (0-d float32) of a
    tracked program, and ``depth`` (0-d int64), the trip count of the outermost loop; where there are several outermost
    loops, ``depth_loop_0`` and so on. A loop with values that differ by step has no free depth. Outputs are the
    model's, then ``stats.<site>``: (steps..., 5) float32, one row for each step at a site.

    Args:
        program: an evaluation program.
        path: file to write; its directory must exist.
        form: ``"rolled"`` keeps loops, as ``Loop`` nodes whose depth may be an input; ``"functions"`` writes each body
            as one ONNX function and calls it step by step, a small file that reads no condition; ``"unrolled"`` writes
            the graph as it was captured.
        depth_inputs: whether trip counts are inputs.
        verify: run the file in ONNX Runtime beside the program, at two optimisation levels.
        overwrite: replace a file that is there.
        opset: version of the ONNX operators, at least 20.

    Raises:
        OutputPathError: the file cannot be written there.
        OptionError: an unknown form or too old an opset.
        ExportError: something in the graph has no ONNX, draws random numbers, or the program is for training.
        VerificationError: the file does not answer as the program does. Nothing is left on disk.
        MissingDependencyError: ``verify`` without ONNX Runtime.
    """
    target = Path(path)
    check_target(target, overwrite=overwrite)
    if form not in get_args(Form):
        raise OptionError(f"form is {form!r}", where="to_onnx", fix=f"choose one of {', '.join(get_args(Form))}")
    if opset < _LEAST_OPSET:
        raise OptionError(f"opset is {opset}", where="to_onnx", fix=f"choose {_LEAST_OPSET} or later")
    model, metadata = build(program, form, depth_inputs=depth_inputs and form == "rolled", opset=opset)
    content = _checked_bytes(model)
    with replacing(target, overwrite=overwrite) as beside:
        beside.write_bytes(content)
        verification = verify_file(program, beside, metadata) if verify else None
    nodes = sum(1 for _ in model.graph.all_nodes())
    return OnnxFile(target, len(content), nodes, form, verification)


def _checked_bytes(model: ir.Model) -> bytes:
    proto = ir.to_proto(model)
    if proto.ByteSize() > _LIMIT:
        raise ExportError("the model is larger than 2 GB", fix="cast its weights to a smaller dtype")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the ONNX checker refuses the graph: {error}", fix="report this model as a defect"
        ) from error
    return with_checksum(proto.SerializeToString())
