"""Runs an exported file beside the program that it was made from, and compares decisions and values.

Every file runs at two of ONNX Runtime's optimisation levels: a fusion that only the higher one makes may be wrong.
The runs: a few rows, with another batch size, at other depths, and for a tracked program at other fidelities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from laser_fx.errors import OnnxFileError, VerificationError
from laser_fx.export.compare import Twins, compare, scale_of, usual
from laser_fx.export.in_float32 import ProgramInFloat32, in_float32
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.model_file import read_model_file
from laser_fx.export.sensitivity import NOTHING_COMPARED, Nudged, nudged
from laser_fx.export.size_conditions import fits
from laser_fx.export.source import Exportable
from laser_fx.export.step_plan import STEP
from laser_fx.export.step_states import following_inputs
from laser_fx.export.straight import hint
from laser_fx.export.tolerances import FLOAT32, Tolerance
from laser_fx.export.verify_halting import AT_ONCE, NOT_AT_ALL, HaltingAnswers, as_array
from laser_fx.export.views import LEVELS, View, views_of
from laser_fx.progress import each

__all__ = ["NEVER", "Verification", "first_run", "verify_file"]

_FEW_ROWS = 4  # rows are computed alike: a few show what many would
_LOGITS = "logits"
NEVER = 2.0  # no basis has this fidelity: every step is exact
_OTHER_FIDELITIES = (0.9, 1.0)

Array = npt.NDArray[Any]
Says: TypeAlias = HaltingAnswers | dict[str, Array]


@dataclass(frozen=True)
class Verification:
    """What was compared.

    Args:
        runs: what was run at each level, in words.
        levels: ONNX Runtime's optimisation levels.
        max_error: largest difference of a value, relative to the largest value of its output.
        excused: runs in which values were not compared: a decision at the very threshold went the other way, or
            rounding alone makes another answer, as nudging all numbers showed; never all of them.
        not_run: why the file was not run as it is, but in float32 alone; ``None`` where it was.
    """

    runs: tuple[str, ...]
    levels: tuple[str, ...]
    max_error: float
    excused: tuple[str, ...] = ()
    not_run: str | None = None


@dataclass(frozen=True)
class _Run:
    label: str
    inputs: tuple[Tensor, ...]
    fidelity: float | None = None
    depths: Mapping[str, int] = field(default_factory=dict)
    above: float | None = None


def verify_file(program: Exportable, path: Path, metadata: FileMetadata) -> Verification:
    """Compare a file with its program, as it is where the CPU has the kernels, and in float32 where it is of 16 bits.

    Raises:
        VerificationError: naming run, level, output and error.
    """
    try:
        views, not_run = views_of(read_model_file(path))
    except OnnxFileError as error:
        fix = f"{error.fix or 'report the model'}; or pass verify=False"
        raise VerificationError(error.what, where="the file to be written", fix=fix) from error
    found = [_verify(ProgramInFloat32(program) if view.in_float32 else program, view, metadata) for view in views]
    runs, excused = (tuple(label for one in found for label in getattr(one, name)) for name in ("runs", "excused"))
    return Verification(runs, LEVELS, max(one.max_error for one in found), excused, not_run)


def _verify(program: Exportable, view: View, metadata: FileMetadata) -> Verification:
    worst, excused = 0.0, []
    runs = _runs(program, metadata, view.tolerance)
    suffix = ", in float32" if view.in_float32 else ""
    finer = ProgramInFloat32(program) if view.halves else None
    for run in each("verifying in ONNX Runtime", runs):
        says = _eager(program, metadata, run)
        exactly = _eager(program, metadata, replace(run, fidelity=NEVER)) if metadata.fidelity else None
        finely = None if finer is None else _eager(finer, metadata, replace(run, inputs=in_float32(run.inputs)))
        for level, session in view.sessions.items():
            actual, where = _onnx(session, metadata, run), f"{run.label}{suffix}, {level}"
            threshold = program.options.fidelity if run.fidelity is None else run.fidelity
            twins = Twins(_answers(exactly, actual), _answers(finely, actual))
            answers = _answers(says, actual)
            assert answers is not None
            compared = partial(compare, answers, actual, metadata, threshold, where=where, tolerance=view.tolerance)
            try:
                error = compared(twins=twins)
            except VerificationError:  # what rounding does to such a program is measured where it has to be known
                nudge = _answers(_nudged(program, metadata, run), actual)
                assert nudge is not None
                error = compared(twins=twins.by_rounding(nudge, answers, metadata))
            if error is None:
                excused.append(where)
                continue
            worst = max(worst, error)
            if isinstance(says, HaltingAnswers):
                says.check(actual[says.halt.steps], _halting_margin(says, exactly, finely, view.tolerance), where)
    if len(excused) == len(runs) * len(view.sessions):
        raise VerificationError(
            NOTHING_COMPARED, where=", ".join(excused), fix="verify a shallower one, or verify=False"
        )
    return Verification(tuple(run.label + suffix for run in runs), LEVELS, worst, tuple(excused))


def _nudged(program: Exportable, metadata: FileMetadata, run: _Run) -> Says:
    return _eager(Nudged(program), metadata, replace(run, inputs=nudged(run.inputs)))


def first_run(program: Exportable, metadata: FileMetadata) -> tuple[dict[str, Array], dict[str, Array]]:
    """A few rows of a program's example inputs by input name, and what it answers by value name."""
    run = _runs(program, metadata, FLOAT32)[0]
    inputs = {name: as_array(x) for name, x in zip(metadata.inputs, run.inputs, strict=True)}
    says = _eager(program, metadata, run)
    return inputs, says.own() if isinstance(says, HaltingAnswers) else says


def _runs(program: Exportable, metadata: FileMetadata, tolerance: Tolerance) -> list[_Run]:
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
    return runs if metadata.halt is None else [*runs, *_halting_runs(program, metadata, runs[0], tolerance)]


def _halting_runs(program: Exportable, metadata: FileMetadata, run: _Run, tolerance: Tolerance) -> Iterator[_Run]:
    """The same rows, halting at once, not at all, and as differently as the logits allow."""
    says = _eager(program, metadata, run)
    assert isinstance(says, HaltingAnswers)  # the file halts
    yield replace(run, label=f"{run.label}, halting at once", above=AT_ONCE)
    yield replace(run, label=f"{run.label}, not halting", above=NOT_AT_ALL)
    above = says.parting(_halting_margin(says, None, None, tolerance))
    if above is not None:
        yield replace(run, label=f"{run.label}, {says.halt.above} = {above:.4g}", above=above)


def _halting_margin(says: HaltingAnswers, exact: Says | None, finer: Says | None, tolerance: Tolerance) -> float:
    """By how much logits may differ as values may, so that a decision near the threshold is left to chance."""
    logits = [{_LOGITS: one.logits} if isinstance(one, HaltingAnswers) else None for one in (exact, finer)]
    twins = Twins(exact=logits[0], finer=logits[1])
    scale = scale_of(says.logits[np.isfinite(says.logits)])
    return scale * max([usual(says.metadata, tolerance), *twins.costs(_LOGITS, says.logits)])


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
    leading = {size.node.expr for shape in shapes for size in shape[:1] if not isinstance(size, int)}
    hints = {symbol: own for shape in shapes for symbol, own in _hints(shape)}
    less = {symbol: size if symbol in leading else hints[symbol] for symbol, size in symbols.items()}
    for sizes in (symbols, less, hints):
        few = _sized(program, shapes, sizes)
        if few is not None:
            others = (
                {symbol: size + 1 for symbol, size in sizes.items()},
                {symbol: size + (symbol in leading) for symbol, size in sizes.items()},
                {symbol: 2 * size for symbol, size in sizes.items()},
            )
            made = (_sized(program, shapes, other) for other in others)
            return few, next((more for more in made if more is not None), None)
    return program.example_inputs, None


def _hints(shape: Sequence[int | torch.SymInt]) -> Iterator[tuple[Any, int]]:
    yield from ((size.node.expr, hint(size)) for size in shape if not isinstance(size, int))


def _sized(program: Exportable, shapes: Sequence[Any], sizes: Mapping[Any, int]) -> tuple[Tensor, ...] | None:
    """The example inputs in these sizes; ``None`` where the program does not hold for them."""
    made = tuple(_resized(x, shape, sizes) for x, shape in zip(program.example_inputs, shapes, strict=True))
    return made if fits(program, made) else None


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


def _answers(says: Says | None, actual: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """What the program answers; where it halts, after the steps that the file took."""
    return says.at(actual[says.halt.steps]) if isinstance(says, HaltingAnswers) else says


def _eager(program: Exportable, metadata: FileMetadata, run: _Run) -> Says:
    module = program.captured if metadata.form == "unrolled" else program.graph_module
    values: dict[str, Tensor] = {**program.weights, **dict(zip(program.user_inputs, run.inputs, strict=True))}
    if metadata.fidelity is not None:
        wanted = program.options.fidelity if run.fidelity is None else run.fidelity
        values["fidelity"] = torch.tensor(wanted, device=next((v.device for v in values.values()), None))
    module_inputs = module.graph.find_nodes(op="placeholder")
    if metadata.halt is not None:
        above = metadata.halt.default if run.above is None else run.above
        arguments = [values[p.name] for p in module_inputs]
        return HaltingAnswers(module, arguments, metadata, next(iter(run.depths.values()), None), above)
    results: Sequence[Any] = ()
    with torch.no_grad():
        for _ in range(run.depths.get(STEP, 1)):
            values |= following_inputs(program, metadata, results)
            results = _AtDepth(module, run.depths).run(*(values[p.name] for p in module_inputs))
    return {name: as_array(result) for name, result in zip(metadata.results, results, strict=False)}


def _onnx(session: Any, metadata: FileMetadata, run: _Run) -> dict[str, Array]:
    feed = {name: as_array(x) for name, x in zip(metadata.inputs, run.inputs, strict=True)}
    feed |= {d.input: np.array(run.depths[d.loop], np.int64) for d in metadata.depths if d.loop in run.depths}
    if run.fidelity is not None and metadata.fidelity is not None:
        feed[metadata.fidelity] = np.array(run.fidelity, np.float32)
    if run.above is not None and metadata.halt is not None:
        feed[metadata.halt.above] = np.array(run.above, np.float32)
    return dict(zip(metadata.results, session.run(list(metadata.results), feed), strict=True))
