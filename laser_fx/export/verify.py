"""Runs an exported file beside the program that it was made from, and compares decisions and values.

Every file runs at two of ONNX Runtime's optimisation levels: a fusion that only the higher one makes may be wrong.
The runs: a few rows, with another batch size, at other depths, and for a tracked program at other fidelities.

A step at a site decides (track, reset, exact) by a comparison with the threshold. Two runs may decide differently only
where the fidelity is as near to the threshold as rounding: from there on they are different computations, and their
values are not compared. Values may differ by rounding; in a tracked run by a little more, since float32 leaves the
directions with the least energy of a basis to chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from laser_fx import ops
from laser_fx.errors import OnnxFileError, VerificationError
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.session import open_session
from laser_fx.export.source import Exportable
from laser_fx.export.straight import hint
from laser_fx.export.verify_halting import AT_ONCE, NOT_AT_ALL, HaltingAnswers, as_array

__all__ = ["LEVELS", "NEVER", "Verification", "compare", "first_run", "same_decisions", "tolerance_of", "verify_file"]

LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")
_EXACT_TOLERANCE = 1e-4
_TRACKED_TOLERANCE = 5e-3
_SHARE = 0.5
_FEW_ROWS = 4  # rows are computed alike: a few show what many would
NEVER = 2.0  # no basis has this fidelity: every step is exact
_FIRST_MARGIN = 1e-5
_LATER_MARGIN = _TRACKED_TOLERANCE  # the values that a later fidelity is measured on differ by so much
_LEAST_SCALE = 1e-2  # an output of smaller values is what rounding leaves of larger ones
_OTHER_FIDELITIES = (0.9, 1.0)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Verification:
    """What was compared.

    Args:
        runs: what was run at each level, in words.
        levels: ONNX Runtime's optimisation levels.
        max_error: largest difference of a value, relative to the largest value of its output.
        excused: runs in which a decision at the very threshold went the other way, so that values were not compared.
    """

    runs: tuple[str, ...]
    levels: tuple[str, ...]
    max_error: float
    excused: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Run:
    label: str
    inputs: tuple[Tensor, ...]
    fidelity: float | None = None
    depths: Mapping[str, int] = field(default_factory=dict)
    above: float | None = None


def verify_file(program: Exportable, path: Path, metadata: FileMetadata) -> Verification:
    """Compare a file with its program.

    Raises:
        VerificationError: naming run, level, output and error.
    """
    sessions = {level: _session(path, level) for level in LEVELS}
    worst, excused = 0.0, []
    runs = _runs(program, metadata)
    for run in runs:
        says = _eager(program, metadata, run)
        exactly = _eager(program, metadata, replace(run, fidelity=NEVER)) if metadata.fidelity else None
        for level, session in sessions.items():
            actual, where = _onnx(session, metadata, run), f"{run.label}, {level}"
            threshold = program.options.fidelity if run.fidelity is None else run.fidelity
            exact = None if exactly is None else _answers(exactly, actual)
            error = compare(_answers(says, actual), actual, metadata, threshold, where=where, exact=exact)
            if error is None:
                excused.append(where)
                continue
            worst = max(worst, error)
            if isinstance(says, HaltingAnswers):
                says.check(actual[says.halt.steps], _halting_margin(says, exactly), where)
    return Verification(tuple(run.label for run in runs), LEVELS, worst, tuple(excused))


def first_run(program: Exportable, metadata: FileMetadata) -> tuple[dict[str, Array], dict[str, Array]]:
    """A few rows of a program's example inputs by input name, and what it answers by value name."""
    run = _runs(program, metadata)[0]
    inputs = {name: as_array(x) for name, x in zip(metadata.inputs, run.inputs, strict=True)}
    says = _eager(program, metadata, run)
    return inputs, says.own() if isinstance(says, HaltingAnswers) else says


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    metadata: FileMetadata,
    threshold: float,
    *,
    where: str,
    exact: Mapping[str, Array] | None = None,
) -> float | None:
    """Largest relative error, or ``None`` where an excused decision makes values incomparable.

    Args:
        expected: outputs by value name, as the program computes them.
        actual: the same, as the file does.
        threshold: the fidelity that decisions compare with.
        where: words for the error.
        exact: outputs of the program without its bases: the file may differ from the program by half of what the
            program differs from these, since a chaotic model magnifies rounding as it magnifies the approximation.

    Raises:
        VerificationError: values differ, or decisions that are not at the threshold.
    """
    for name, value in expected.items():
        if value.shape != actual[name].shape:
            raise VerificationError(
                f"{name!r} has shape {actual[name].shape}, not {value.shape}", where=where, fix=_FIX
            )
    agree = [same_decisions(expected[v], actual[v], threshold, f"{where}, site {key}") for key, v in metadata.records]
    if not all(agree) and threshold < 1:
        return None
    # At 1 a step is exact in both, unless a full basis passed for exact: then it is as near as a basis is.
    is_exact = not metadata.fidelity or (all(agree) and threshold == 1)
    tolerance = _EXACT_TOLERANCE if is_exact else _TRACKED_TOLERANCE
    allowed = {v: max(tolerance, _approximation(expected[v], exact[v]) if exact else 0.0) for _, v in metadata.outputs}
    named = metadata.outputs if metadata.fidelity else (*metadata.outputs, *metadata.records)
    return max((_error(n, expected[v], actual[v], allowed.get(v, tolerance), where) for n, v in named), default=0.0)


def _approximation(tracked: Array, exact: Array) -> float:
    """Half of what the bases cost, relative to the largest value."""
    if not np.issubdtype(exact.dtype, np.floating):
        return 0.0
    finite = np.isfinite(exact) & np.isfinite(tracked)
    scale = max(float(np.abs(tracked[finite]).max(initial=0.0)), _LEAST_SCALE)
    return _SHARE * float(np.abs(tracked[finite] - exact[finite]).max(initial=0.0)) / scale


_FIX = "export with form='unrolled', or report the model: the file was not written"


def tolerance_of(metadata: FileMetadata) -> float:
    """Of the largest value, how far values of a file's runs may differ."""
    return _EXACT_TOLERANCE if metadata.fidelity is None else _TRACKED_TOLERANCE


def same_decisions(expected: Array, actual: Array, threshold: float, where: str) -> bool:
    """Whether two records decide alike. An earlier step of this site that was excused excuses those after it."""
    ours, theirs = expected.reshape(-1, 5), actual.reshape(-1, 5)
    differs = (ours[:, ops.TRACKED :] != theirs[:, ops.TRACKED :]).any(1).nonzero()[0]
    if not differs.size:
        return True
    step = int(differs[0])
    margin = _LATER_MARGIN if step else _FIRST_MARGIN
    fidelities = (float(ours[step, ops.FIDELITY]), float(theirs[step, ops.FIDELITY]))
    if min(abs(value - threshold) for value in fidelities) < margin:
        return False
    raise VerificationError(
        f"step {step} decided {theirs[step].tolist()}, the program {ours[step].tolist()}", where=where, fix=_FIX
    )


def _error(name: str, expected: Array, actual: Array, tolerance: float, where: str) -> float:
    if not np.issubdtype(expected.dtype, np.floating):
        if not np.array_equal(expected, actual):
            different = int((expected != actual).sum())
            raise VerificationError(f"{name!r} differs in {different} entries", where=where, fix=_FIX)
        return 0.0
    finite = np.isfinite(expected)
    same = np.array_equal(finite, np.isfinite(actual))
    scale = max(float(np.abs(expected[finite]).max(initial=0.0)), _LEAST_SCALE)
    error = float(np.abs(expected[finite] - actual[finite]).max(initial=0.0)) / scale if same else float("inf")
    if not error <= tolerance:
        raise VerificationError(
            f"{name!r} differs by {error:.1e} of its largest value, more than {tolerance:.0e}", where=where, fix=_FIX
        )
    return error


def _session(path: Path, level: str) -> Any:
    try:
        return open_session(path, providers=["CPUExecutionProvider"], level=level)
    except OnnxFileError as error:
        raise VerificationError(
            error.what, where=level, fix="cast the model to float32, or pass verify=False"
        ) from error


def _runs(program: Exportable, metadata: FileMetadata) -> list[_Run]:
    # A basis has more columns than a few rows have directions: what it holds besides is left to chance.
    rows = None if metadata.fidelity else _FEW_ROWS
    few, more = _at_batch(program, rows)
    runs = [_Run("as captured" if more is None or rows is None else f"{rows} rows", few)]
    if more is not None:
        runs.append(_Run("another batch size", more))
    runs += [
        _Run(f"{depth.input} = {trips}", few, depths={depth.loop: trips})
        for depth in metadata.depths
        for trips in (depth.default + 1, depth.least)
    ]
    if metadata.fidelity is not None:
        runs += [_Run(f"fidelity = {value}", few, value) for value in _OTHER_FIDELITIES]
    return runs if metadata.halt is None else [*runs, *_halting_runs(program, metadata, runs[0])]


def _halting_runs(program: Exportable, metadata: FileMetadata, run: _Run) -> Iterator[_Run]:
    """The same rows, halting at once, not at all, and as differently as the logits allow."""
    says = _eager(program, metadata, run)
    assert isinstance(says, HaltingAnswers)  # the file halts
    yield replace(run, label=f"{run.label}, halting at once", above=AT_ONCE)
    yield replace(run, label=f"{run.label}, not halting", above=NOT_AT_ALL)
    above = says.parting(_halting_margin(says, None))
    if above is not None:
        yield replace(run, label=f"{run.label}, {says.halt.above} = {above:.4g}", above=above)


def _halting_margin(says: HaltingAnswers, exact: HaltingAnswers | Mapping[str, Array] | None) -> float:
    """By how much logits may differ as values may, so that a decision near the threshold is left to chance."""
    finite = says.logits[np.isfinite(says.logits)]
    scale = max(float(np.abs(finite).max(initial=0.0)), _LEAST_SCALE)
    approximation = _approximation(says.logits, exact.logits) if isinstance(exact, HaltingAnswers) else 0.0
    return scale * max(tolerance_of(says.metadata), approximation)


def _at_batch(program: Exportable, rows: int | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """The example inputs with ``rows`` in every open dimension, ``None`` for as many as there are, and with one more.

    Where no dimension is open: the example inputs, and ``None``.
    """
    placeholders = {p.name: p for p in program.graph_module.graph.find_nodes(op="placeholder")}
    shapes = [placeholders[name].meta["val"].shape for name in program.user_inputs]
    open_sizes = [size for shape in shapes for size in shape if not isinstance(size, int)]
    symbols = {size.node.expr: rows or hint(size) for size in open_sizes if size.node.expr.is_Symbol}
    if not open_sizes or any(size.node.expr.free_symbols - symbols.keys() for size in open_sizes):
        return program.example_inputs, None
    few, more = (
        tuple(_resized(x, shape, sizes) for x, shape in zip(program.example_inputs, shapes, strict=True))
        for sizes in (symbols, {symbol: size + 1 for symbol, size in symbols.items()})
    )
    return few, more


def _resized(x: Tensor, shape: Sequence[int | torch.SymInt], sizes: Mapping[Any, int]) -> Tensor:
    """The first rows, repeated if they are too few, where a size, such as s0 or 81·s0, is open."""
    for axis, size in enumerate(shape):
        if not isinstance(size, int):
            rows = int(size.node.expr.subs(sizes))
            x = x.index_select(axis, torch.arange(rows, device=x.device) % x.shape[axis])
    return x


class _AtDepth(fx.Interpreter):
    """Runs a rolled graph with other trip counts than it was traced with."""

    def __init__(self, module: fx.GraphModule, trips: Mapping[str, int]) -> None:
        super().__init__(module)
        self._trips = trips

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = self.fetch_attr(target)
        return loop.changed(trip_count=self._trips.get(loop.name, loop.trip_count))(*args, **kwargs)


def _answers(says: HaltingAnswers | dict[str, Array], actual: Mapping[str, Array]) -> dict[str, Array]:
    """What the program answers; where it halts, after the steps that the file took."""
    return says.at(actual[says.halt.steps]) if isinstance(says, HaltingAnswers) else says


def _eager(program: Exportable, metadata: FileMetadata, run: _Run) -> HaltingAnswers | dict[str, Array]:
    module = program.captured if metadata.form == "unrolled" else program.graph_module
    values: dict[str, Tensor] = {**program.weights, **dict(zip(program.user_inputs, run.inputs, strict=True))}
    if metadata.fidelity is not None:
        wanted = program.options.fidelity if run.fidelity is None else run.fidelity
        values["fidelity"] = torch.tensor(wanted, device=next((v.device for v in values.values()), None))
    arguments = [values[p.name] for p in module.graph.find_nodes(op="placeholder")]
    if metadata.halt is not None:
        above = metadata.halt.default if run.above is None else run.above
        return HaltingAnswers(module, arguments, metadata, next(iter(run.depths.values()), None), above)
    with torch.no_grad():
        results = _AtDepth(module, run.depths).run(*arguments)
    return {name: as_array(result) for name, result in zip(metadata.results, results, strict=False)}


def _onnx(session: Any, metadata: FileMetadata, run: _Run) -> dict[str, Array]:
    feed = {name: as_array(x) for name, x in zip(metadata.inputs, run.inputs, strict=True)}
    feed |= {d.input: np.array(run.depths[d.loop], np.int64) for d in metadata.depths if d.loop in run.depths}
    if run.fidelity is not None and metadata.fidelity is not None:
        feed[metadata.fidelity] = np.array(run.fidelity, np.float32)
    if run.above is not None and metadata.halt is not None:
        feed[metadata.halt.above] = np.array(run.above, np.float32)
    return dict(zip(metadata.results, session.run(list(metadata.results), feed), strict=True))
