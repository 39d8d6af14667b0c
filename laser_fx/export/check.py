"""`verify_exported`: a file against its own metadata and a reference batch, at two of ONNX Runtime's levels.

No model is needed. A file is read as `laser_fx.export.OnnxModel` reads it, run at ORT_ENABLE_BASIC and ORT_ENABLE_ALL
on batches made from its shapes and at other depths, and the levels are compared: a fusion that only the higher one
makes may be wrong. A reference batch is inputs and answers that were kept at export: both levels have to answer so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from laser_fx.errors import InputError, OnnxFileError, VerificationError
from laser_fx.export.compare import Twins, compare, same_decisions, usual
from laser_fx.export.in_float32 import file_in_float32, floating_dtypes
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.model_file import ModelFile, read_model_file
from laser_fx.export.providers import CPU
from laser_fx.export.reference import Reference, made_inputs, read_reference, write_arrays
from laser_fx.export.sensitivity import NOTHING_COMPARED, nudged_file
from laser_fx.export.session import open_file
from laser_fx.export.sizes import rows_from, symbols_of
from laser_fx.export.source import Exportable
from laser_fx.export.tolerances import Tolerance, tolerance_of
from laser_fx.export.verify import NEVER, first_run
from laser_fx.export.verify_halting import AT_ONCE, NOT_AT_ALL, same_steps
from laser_fx.export.views import LEVELS, View, views_of
from laser_fx.progress import each

__all__ = ["FileCheck", "verify_exported", "write_reference"]

_FIX = "export the file again; if it stays so, report the model"
_SEED = 0
_BATCHES = (1, 3)
_REFERENCE = "the reference batch"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FileCheck:
    """What was checked of a file; that there is one means that all of it holds.

    Args:
        path: the file.
        form: how its loops are written.
        checksum: whether it bears one; files of other tools, and edited ones without it, do not.
        levels: ONNX Runtime's optimisation levels.
        runs: what was run at each level, in words.
        max_error: largest difference of a value, relative to the largest value of its output.
        excused: runs, each with its level, in which values were not compared: a decision at the very threshold went
            the other way, or rounding alone makes another answer. Never all of them, nor all of the reference batch.
        reference: the reference batch, ``None`` where there was none.
        not_run: why the file was not run as it is, but with float32 for its own dtype; ``None`` where it was.
    """

    path: Path
    form: str
    checksum: bool
    levels: tuple[str, ...]
    runs: tuple[str, ...]
    max_error: float
    excused: tuple[str, ...]
    reference: Path | None
    not_run: str | None = None


@dataclass(frozen=True)
class _Run:
    label: str
    feed: Mapping[str, Array]
    expected: Mapping[str, Array] | None = None


def verify_exported(path: str | os.PathLike[str], reference: str | os.PathLike[str] | None = None) -> FileCheck:
    """Check a file that `laser_fx.export.to_onnx` wrote, on the CPU.

    Args:
        path: the file.
        reference: a batch that `write_reference` wrote; without one only the levels are compared with each other.

    Raises:
        OnnxFileError: the file, or the reference, is missing, damaged, tampered with or foreign.
        InputError: the reference is of another model, or the file's open dimensions cannot be filled without one.
        VerificationError: naming run, level, output and error; or nothing could be compared, or not the reference.
        MissingDependencyError: no ONNX Runtime.
    """
    file = read_model_file(Path(path))
    views, not_run = views_of(file)
    errors, excused, labels = dict[str, float](), [], list[str]()
    for view in views:
        all_runs = (*_made_runs(file.metadata, view.sessions[LEVELS[0]]), *_kept_runs(file.metadata, reference))
        for made in each("comparing answers", all_runs):
            run = _in_dtypes_of(made, view)
            labels.append(run.label)
            for label, error in _compared(file, run, view):
                if error is None:
                    excused.append(label)
                else:
                    errors[label] = error
    if not errors:
        raise VerificationError(
            NOTHING_COMPARED, where=str(file.path), fix="keep a reference batch of a shallower call"
        )
    if reference is not None and not any(label.startswith(_REFERENCE) for label in errors):
        raise VerificationError(
            "the answers could not be compared with those of the reference: rounding alone, or a decision at the very "
            "threshold, makes others",
            where=str(file.path),
            fix="keep a reference batch of a shallower model, or verify without one: then only the levels are compared",
        )
    kept, form, runs = None if reference is None else Path(reference), file.metadata.form, tuple(labels)
    return FileCheck(file.path, form, file.checked, LEVELS, runs, max(errors.values()), tuple(excused), kept, not_run)


def write_reference(
    program: Exportable, file: str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Keep a few rows of a program's example inputs, and what the program answers, beside its file.

    Args:
        program: what the file was written from.
        file: the file; its metadata names inputs and outputs.
        path: safetensors file to write.
        overwrite: replace a file that is there.

    Raises:
        OnnxFileError: the file is not one of ours.
        OutputPathError: the reference cannot be written there.
    """
    metadata = read_model_file(Path(file)).metadata
    inputs, outputs = first_run(program, metadata)
    return write_arrays(Reference(inputs, outputs), path, overwrite=overwrite)


def _made_runs(metadata: FileMetadata, session: Any) -> Iterator[_Run]:
    expected = {value.name: value for value in session.get_inputs()}
    symbols = symbols_of(value.shape for value in expected.values())
    batches = [rows_from(least, symbols, metadata.conditions) for least in _BATCHES] if symbols else [1]
    for rows in dict.fromkeys(batches):
        label = f"normal values, {rows} in every open dimension" if symbols else "normal values"
        yield _Run(label, made_inputs(expected, rows, seed=_SEED))
    feed = made_inputs(expected, batches[-1], seed=_SEED)
    for depth in metadata.depths:
        for trips in (depth.least, depth.default + 1):
            yield _Run(f"{depth.input} = {trips}", {**feed, depth.input: np.array(trips, np.int64)})
    if metadata.halt is not None:
        for label, above in (("halting at once", AT_ONCE), ("not halting", NOT_AT_ALL)):
            yield _Run(label, {**feed, metadata.halt.above: np.array(above, np.float32)})


def _kept_runs(metadata: FileMetadata, path: str | os.PathLike[str] | None) -> Iterator[_Run]:
    if path is None:
        return
    reference = read_reference(path)
    if reference.inputs.keys() != set(metadata.inputs) or reference.outputs.keys() != set(metadata.results):
        raise InputError(
            "the reference batch is of another model: its names are others",
            where=str(path),
            fix="keep each file together with its own reference",
        )
    yield _Run(_REFERENCE, reference.inputs, reference.outputs)


def _in_dtypes_of(run: _Run, view: View) -> _Run:
    """The run as a view in float32 takes it: reference batches are kept in the file's own dtype."""
    if not view.in_float32:
        return run
    feed = {name: x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x for name, x in run.feed.items()}
    return replace(run, label=f"{run.label}, in float32", feed=feed)


def _compared(file: ModelFile, run: _Run, view: View) -> Iterator[tuple[str, float | None]]:
    sessions = view.sessions
    # A reference batch was answered in the file's own dtype, whatever this view runs in.
    tolerance = tolerance_of(floating_dtypes(file.model)) if run.expected else view.tolerance
    names = list(file.metadata.results)
    answers = {level: _answers(file, session, names, run, level) for level, session in sessions.items()}
    basis = run.expected or answers[LEVELS[0]]
    exact = _exact(file, sessions[LEVELS[0]], names, run, basis)
    for level in LEVELS if run.expected else LEVELS[1:]:
        label = f"{run.label}, {level}"
        try:
            if _halts_alike(file, run, basis, answers[level], label, tolerance):
                at, twins = _threshold(file), Twins(exact)
                compared = partial(compare, basis, answers[level], file.metadata, at, where=label, tolerance=tolerance)
                try:
                    yield label, compared(twins=twins)
                except VerificationError:
                    yield label, compared(twins=_by_rounding(twins, file, view, run, answers[LEVELS[0]]))
            else:
                yield label, None
        except VerificationError as error:
            against = "the reference" if run.expected else LEVELS[0]
            raise VerificationError(
                f"{error.what} (against {against})", where=f"{file.path}, {error.where}", fix=_FIX
            ) from error


def _by_rounding(twins: Twins, file: ModelFile, view: View, run: _Run, own: Mapping[str, Array]) -> Twins:
    """What rounding makes of the file's own answers: a run that disagrees is judged by that."""
    seen = file_in_float32(file) if view.in_float32 else file
    made = None if seen is None else nudged_file(seen)
    if made is None:
        return twins
    session = open_file(made, providers=[CPU], level=LEVELS[0]).session
    return twins.by_rounding(_answers(made, session, list(own), run, LEVELS[0]), own, file.metadata)


def _halts_alike(
    file: ModelFile,
    run: _Run,
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    where: str,
    tolerance: Tolerance,
) -> bool:
    """Whether both took the same steps; false where a decision at a threshold excuses that they did not."""
    metadata, halt = file.metadata, file.metadata.halt
    if halt is None or np.array_equal(expected[halt.steps], actual[halt.steps]):
        return True
    for key, value in metadata.records if metadata.fidelity else ():
        steps = min(len(expected[value]), len(actual[value]))
        ours, theirs, place = expected[value][:steps], actual[value][:steps], f"{where}, site {key}"
        if not same_decisions(ours, theirs, _threshold(file), place, tolerance):
            return False
    above = float(run.feed.get(halt.above, np.array(halt.default)))
    return same_steps(expected, actual, metadata, above, usual(metadata, tolerance), where)


def _exact(
    file: ModelFile, session: Any, names: list[str], run: _Run, basis: Mapping[str, Array]
) -> dict[str, Array] | None:
    """What a tracked file answers where no basis is good enough; see `laser_fx.export.verify.compare`.

    After as many steps as the run took, where the file can be told how many.
    """
    if not file.metadata.records or file.metadata.fidelity is None:
        return None
    feed = {**run.feed, file.metadata.fidelity: np.array(NEVER, np.float32)}
    if file.metadata.halt is not None:
        feed |= {depth.input: basis[file.metadata.halt.steps] for depth in file.metadata.depths}
        feed[file.metadata.halt.above] = np.array(NOT_AT_ALL, np.float32)
    return _answers(file, session, names, replace(run, feed=feed), LEVELS[0])


def _answers(file: ModelFile, session: Any, names: list[str], run: _Run, level: str) -> dict[str, Array]:
    try:
        return dict(zip(names, session.run(names, dict(run.feed)), strict=True))
    except Exception as error:  # onnxruntime's own errors share no base but this
        raise OnnxFileError(
            f"the file does not run: {str(error).strip()[:300]}", where=f"{file.path}, {run.label}, {level}", fix=_FIX
        ) from error


def _threshold(file: ModelFile) -> float:
    """The fidelity that decisions compare with: the default of that input."""
    step = file.metadata.step
    if step is not None and step.bases is not None:
        return step.bases.threshold
    stored = [t for t in file.model.graph.initializer if t.name == file.metadata.fidelity]
    return float(numpy_helper.to_array(stored[0])) if stored else 1.0
