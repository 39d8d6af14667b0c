"""`to_onnx`: a compiled program as an ONNX file whose loops are real ``Loop`` nodes."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, get_args

import onnx
import onnx_ir as ir

from laser_fx.errors import ExportError, OptionError
from laser_fx.events import tell
from laser_fx.export.build import Form, build
from laser_fx.export.checksum import with_checksum
from laser_fx.export.data_file import data_beside, weight_bytes
from laser_fx.export.early_exit import Halting, HaltPer
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.model_file import files_beside
from laser_fx.export.refused import refused_graph
from laser_fx.export.schema import FORMS
from laser_fx.export.source import Exportable
from laser_fx.export.step_build import BuiltStep, build_step
from laser_fx.export.step_states import StatePairs
from laser_fx.export.step_write import write_step
from laser_fx.export.verify import Verification, verify_file
from laser_fx.files import check_target, replacing

__all__ = ["OnnxFile", "to_onnx"]

_LEAST_OPSET = 20
_LIMIT = 2**31 - 1
_GIGABYTE = 2**30
_LARGEST_LOGIT = 3e38


@dataclass(frozen=True)
class OnnxFile:
    """A file that was written.

    Args:
        path: where it is.
        bytes: its size, with the weights that are in a file beside it.
        nodes: how many nodes it has, those inside loops counted once.
        form: ``"rolled"``, ``"functions"``, ``"step"`` or ``"unrolled"``.
        verification: what was compared with the program, ``None`` where the caller asked for no check.
        parts: the files beside it that belong to it: those of ``"step"``.
    """

    path: Path
    bytes: int
    nodes: int
    form: str
    verification: Verification | None
    parts: tuple[Path, ...] = ()


def to_onnx(
    program: Exportable,
    path: str | os.PathLike[str],
    *,
    form: Form | Literal["step"] = "rolled",
    depth_inputs: bool = True,
    verify: bool = True,
    overwrite: bool = False,
    opset: int = _LEAST_OPSET,
    external_data: bool | None = None,
    halt: str | None = None,
    halt_per: HaltPer = "batch",
    halt_above: float = 0.0,
    state: StatePairs | None = None,
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
        opset: version of the ONNX operators, from 20 to the newest that the installed ``onnx`` knows.
        external_data: write the weights to a file beside this one, ``<name>.weights-<digest>.bin``, which the metadata
            names with its SHA-256; ``None``: where they are more than a gigabyte.
        halt: an output (batch,) of the model that says when an example is done, by its readable name: logits, done
            where they are more than ``halt_above``, or truth values. The outermost loop then ends early: at least one
            step runs, and at most as many as the depth says. For the forms rolled and step.
        halt_per: ``"batch"`` ends when all examples are done, and all answer as of that step; with ``"example"`` each
            row stands still once it is done, and answers as of its own step, whatever else is in the batch. That is
            right where the model computes rows by themselves, which verification looks at and cannot prove.
        halt_above: the logit above which an example is done, where a call says no other.
        state: with ``"step"``, for a model whose call is one step itself: which output, by name, is the next step's
            value of which input, ``{"carry.z": "0.z"}``; ``"auto"``: where an argument has the leaves of a result.

    Raises:
        OutputPathError: the file cannot be written there.
        OptionError: an unknown form, an opset that is too old or unknown, or a halting output that there is not, or of
            another shape.
        ExportError: something in the graph has no ONNX, draws random numbers, or the program is for training; or its
            loop cannot be left early.
        VerificationError: the file does not answer as the program does. Nothing is left on disk.
        MissingDependencyError: ``verify`` without ONNX Runtime.
    """
    began, target = perf_counter(), Path(path)
    check_target(target, overwrite=overwrite)
    if form not in FORMS:
        raise OptionError(f"form is {form!r}", where="to_onnx", fix=f"choose one of {', '.join(FORMS)}")
    if state is not None and form != "step":
        raise OptionError("state belongs to form='step'", where="to_onnx", fix="leave it out")
    newest = onnx.defs.onnx_opset_version()
    if type(opset) is not int or not _LEAST_OPSET <= opset <= newest:
        raise OptionError(f"opset is {opset!r}", where="to_onnx", fix=f"choose one from {_LEAST_OPSET} to {newest}")
    halting = _halting(form, halt, halt_per, halt_above)
    if form == "step":
        built = build_step(program, depth_inputs=depth_inputs, opset=opset, state=state, halt=halting)
        apart = _apart(_weigh(built), external_data)
        step = write_step(
            program, built, target, check=_check_file, verify=verify, overwrite=overwrite, external_data=apart
        )
        return _told(OnnxFile(target, step.bytes, step.nodes, form, step.verification, step.parts), began)
    model, metadata = build(program, form, depth_inputs=depth_inputs and form == "rolled", opset=opset, halt=halting)
    nodes = sum(1 for _ in model.graph.all_nodes())
    apart = _apart(weight_bytes(model), external_data)
    old = files_beside(target) if overwrite else set()
    with data_beside(model, target) if apart else nullcontext() as data:
        metadata = dataclasses.replace(metadata, data=data)
        with replacing(target, overwrite=overwrite) as beside:
            _write(model, metadata, beside)
            verification = verify_file(program, beside, metadata) if verify else None
    new = set() if data is None else {target.with_name(data.file)}
    for path in old - new:
        path.unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in (target, *new))
    return _told(OnnxFile(target, size, nodes, form, verification), began)


def _told(file: OnnxFile, began: float) -> OnnxFile:
    seconds, verified = perf_counter() - began, file.verification is not None
    sentence = "wrote %s, %s: %d bytes, %d nodes; %.1f s"
    fields = {"form": file.form, "bytes": file.bytes, "nodes": file.nodes, "seconds": seconds}
    tell(logging.INFO, "exported", sentence, file.path, *fields.values(), path=file.path, verified=verified, **fields)
    return file


def _write(model: ir.Model, metadata: FileMetadata, path: Path) -> None:
    if metadata.data is None:
        path.write_bytes(_checked_bytes(model))
        return
    model.metadata_props.update(metadata.to_properties())
    path.write_bytes(with_checksum(ir.to_proto(model).SerializeToString()))
    _check_file(path)


def _check_file(path: Path) -> None:
    """By its path: what checks the model has to find the weights."""
    with _defects():
        onnx.checker.check_model(str(path), full_check=True)


def _halting(form: str, output: str | None, per: str, above: float) -> Halting | None:
    if per not in get_args(HaltPer):
        raise OptionError(f"halt_per is {per!r}", where="to_onnx", fix=f"choose one of {', '.join(get_args(HaltPer))}")
    if isinstance(above, bool) or not isinstance(above, int | float) or not abs(above) <= _LARGEST_LOGIT:
        raise OptionError(f"halt_above is {above!r}", where="to_onnx", fix="choose a number in the range of float32")
    if output is None:
        if (per, above) != ("batch", 0.0):
            raise OptionError("nothing halts", where="halt_per, halt_above", fix="name an output: halt='q_halt_logits'")
        return None
    if form not in ("rolled", "step"):
        raise OptionError(f"the form {form!r} reads no condition", where="halt", fix="choose form='rolled' or 'step'")
    return Halting(output, "example" if per == "example" else "batch", float(above))


def _apart(weights: int, asked: bool | None) -> bool:
    """Whether weights of so many bytes lie in a file of their own."""
    if asked is False and weights > _LIMIT:
        raise ExportError("the model is larger than 2 GB", fix="pass external_data=True, or None")
    return weights > _GIGABYTE if asked is None else asked


def _weigh(built: BuiltStep) -> int:
    return max(weight_bytes(model) for model in built.models.values())


def _checked_bytes(model: ir.Model) -> bytes:
    proto = ir.to_proto(model)
    with _defects():
        onnx.checker.check_model(proto, full_check=True)
    return with_checksum(proto.SerializeToString())


@contextmanager
def _defects() -> Iterator[None]:
    try:
        yield
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise refused_graph(str(error)) from error
