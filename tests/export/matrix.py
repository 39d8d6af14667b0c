"""Every family × form × dtype × bases, a file of it beside eager: ``python -m tests.export.matrix``.

The suite runs a part of it (`tests/export/test_matrix.py`); this command runs all and writes what came of each cell.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
import torch.utils._pytree as pytree
from torch import Tensor

import laser_fx
from laser_fx import subspace
from laser_fx.calibration import Calibration, SiteBasis
from laser_fx.compiler import CompiledModel
from laser_fx.errors import ExportError, LaserError, OnnxFileError
from laser_fx.export import OnnxModel
from laser_fx.export.build import Form
from laser_fx.export.compare import cost
from laser_fx.export.graphs import nodes
from laser_fx.export.in_float32 import floating_dtypes
from laser_fx.export.model_file import read_model_file
from laser_fx.export.tolerances import tolerance_of
from laser_fx.files import write_text
from laser_fx.options import Options
from laser_fx.passes.find_sites import find_sites
from laser_fx.reporting import environment
from tests.export.no_step import why_no_step
from tests.export.registry_cache import parse_functions_once
from tests.export.translate_cache import translate_once
from tests.families.registry import FAMILIES

FORMS: tuple[Any, ...] = (*get_args(Form), "step")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}
BASES = ("off", "frozen", "per_step", "tracked")
OPSETS = (20, 22)
"""Some operators take bfloat16 from opset 22 on: what the first one refuses so is written in the second."""

ROWS, OTHER_ROWS = 3, 5


@dataclass(frozen=True)
class Cell:
    """One file: a family's model of a dtype, compiled with these bases, written in this form."""

    family: str
    form: Form
    dtype: str
    basis: str

    def __str__(self) -> str:
        return f"{self.family}-{self.form}-{self.dtype}-{self.basis}"


@dataclass(frozen=True)
class Result:
    """What came of a cell; that there is one means that all of it holds.

    Args:
        outcome: ``"equals eager"``; ``"verified in float32"``, where ONNX Runtime's CPU lacks the kernels;
            ``"refused"``, where a file cannot be; ``"no eager"``, where the model itself does not run in that dtype;
            ``"no site"``, where there is nothing that a basis could serve.
        error: largest difference from eager, relative to the largest value; 0 where nothing was run.
        operators: domain and name of all operators in the file.
    """

    outcome: str
    error: float = 0.0
    operators: frozenset[tuple[str, str]] = frozenset()


def cells(families: Iterable[str] = tuple(FAMILIES)) -> Iterator[Cell]:
    """All of the matrix, those of one compilation after one another."""
    for family, dtype, basis, form in itertools.product(families, DTYPES, BASES, FORMS):
        yield Cell(family, form, dtype, basis)


def inputs(cell: Cell, rows: int) -> tuple[Tensor, ...]:
    """Inputs of the family, floating ones in the cell's dtype."""
    torch.manual_seed(rows)
    made = FAMILIES[cell.family].inputs(rows)
    return tuple(x.to(DTYPES[cell.dtype]) if x.is_floating_point() else x for x in made)


def run(cell: Cell, folder: Path) -> Result:
    """Write the file, open it, compare it with eager at another batch size than it was compiled for.

    Raises:
        AssertionError: it does not answer as eager does.
        LaserError: it cannot be written, and not for a reason that is known.
    """
    parse_functions_once()
    translate_once()
    if not _runs_eagerly(cell.family, cell.dtype):
        return Result("no eager")
    compiled = _compiled(cell.family, cell.dtype, cell.basis)
    if compiled is None:
        return Result("no site")
    operator = FAMILIES[cell.family].refused_by_onnx
    if operator is not None:
        _refused(compiled, cell, folder, operator)
        return Result("refused")
    path = folder / f"{cell}.onnx"
    try:
        verification = _written(compiled, cell, path)
    except ExportError as error:
        if cell.form == "step" and why_no_step(error) is not None:
            return Result("no step")
        raise
    model = read_model_file(path).model
    found = frozenset((node.domain, node.op_type) for node in nodes(model))
    if verification.not_run is not None:
        _names_node_and_provider(path)
        return Result("verified in float32", 0.0, found)
    return Result("equals eager", _compared(compiled, cell, path, model), found)


def _refused(compiled: CompiledModel, cell: Cell, folder: Path, operator: str) -> None:
    before = set(folder.iterdir())
    try:
        compiled.to_onnx(folder / "refused.onnx", form=cell.form)
    except ExportError as error:
        assert operator in str(error), error  # noqa: PT017
        assert set(folder.iterdir()) == before
        return
    raise AssertionError(f"a file that draws random numbers was written: {cell}")


def _written(compiled: CompiledModel, cell: Cell, path: Path) -> Any:
    try:
        return compiled.to_onnx(path, form=cell.form, overwrite=True, opset=OPSETS[0]).verification
    except ExportError as error:
        if f"opset={OPSETS[1]}" not in str(error):
            raise
    return compiled.to_onnx(path, form=cell.form, overwrite=True, opset=OPSETS[1]).verification


def _names_node_and_provider(path: Path) -> None:
    try:
        OnnxModel(path)
    except OnnxFileError as error:
        assert "CPUExecutionProvider cannot run" in str(error) or "bfloat16" in str(error), error  # noqa: PT017
        assert "node '" in str(error), error  # noqa: PT017
        return
    raise AssertionError(f"{path.name} was not run at export, but it can be opened")


@torch.no_grad()
def _compared(compiled: CompiledModel, cell: Cell, path: Path, model: onnx.ModelProto) -> float:
    given = inputs(cell, OTHER_ROWS)
    answers = [_array(value) for value in OnnxModel(path)(*given).values()]
    eager = [_array(value) for value in pytree.tree_leaves(compiled._model(*given)) if isinstance(value, Tensor)]
    # Bases approximate, be it in a file or not: what they make of the model is measured elsewhere.
    approximates = cell.basis != "off" and cell.form != "unrolled"
    expected = (
        [_array(v) for v in pytree.tree_leaves(compiled(*given)) if isinstance(v, Tensor)] if approximates else eager
    )
    tolerance = tolerance_of(floating_dtypes(model))
    least = tolerance.tracked if cell.basis == "tracked" else tolerance.exact
    worst = 0.0
    assert len(answers) == len(expected)
    for answer, value, exact in zip(answers, expected, eager, strict=True):
        assert answer.shape == value.shape
        slack = cost(value, exact) / 2 if approximates and cell.basis == "tracked" else 0.0
        error = cost(value, answer) if value.dtype.kind == "f" else float((value != answer).any())
        assert error <= max(least, slack), f"{cell}: {error:.1e} from eager, more than {max(least, slack):.1e}"
        worst = max(worst, error)
    return worst


def _array(value: Any) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = (value.double() if value.is_floating_point() else value).numpy()
    return array


@functools.lru_cache(maxsize=1)
def _runs_eagerly(family: str, dtype: str) -> bool:
    cell = Cell(family, FORMS[0], dtype, "off")
    try:
        with torch.no_grad():
            _model(family, dtype)(*inputs(cell, ROWS))
    except RuntimeError:
        return False
    return True


def _model(family: str, dtype: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return FAMILIES[family].model().eval().to(DTYPES[dtype])


@functools.lru_cache(maxsize=2)
def _compiled(family: str, dtype: str, basis: str) -> CompiledModel | None:
    """Compiled once for all forms; None where there is nothing that a basis could serve."""
    cell = Cell(family, FORMS[0], dtype, basis)
    if basis in ("off", "tracked"):
        options = Options.exact() if basis == "off" else Options(sites="all")
        return _ready(laser_fx.compile(_model(family, dtype), options=options), cell)
    exact = _compiled(family, dtype, "off")
    assert exact is not None
    bases = _bases(exact, per_step=basis == "per_step")
    if not bases:
        return None
    calibration = Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ())
    made = laser_fx.compile(exact._model, options=Options(basis=basis), calibration=calibration)  # type: ignore[arg-type]
    return _ready(made, cell)


def _ready(compiled: CompiledModel, cell: Cell) -> CompiledModel:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", laser_fx.errors.NoLoopWarning)
        compiled(*inputs(cell, ROWS))
    return compiled


def _bases(exact: CompiledModel, *, per_step: bool) -> dict[str, SiteBasis]:
    """Random bases of three quarters of each site's width: a file has to compute with any."""
    program = exact.program
    found: dict[str, SiteBasis] = {}
    for number, site in enumerate(
        p.site for p in find_sites(program.rolled, program.capture.states, of_parameters=True)
    ):
        objective: Any = ("activation", "output")[number % 2]
        width = site.features if objective == "activation" else site.outputs
        trips = tuple(program.nest.trips_around(site.loop)) if per_step else ()
        count = int(np.prod(trips, dtype=int))
        drawn = [subspace.sketch(width, max(1, 3 * width // 4), f"{site.key}:{step}") for step in range(count)]
        columns = torch.stack([torch.linalg.qr(one)[0] for one in drawn])
        found[site.key] = SiteBasis(objective, columns.reshape(*trips, *columns.shape[1:]))
    return found


def main(arguments: Iterable[str] | None = None) -> int:
    """Run all cells of some families, by default of all; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.export.matrix", description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--json", type=Path, help="write a summary to this file")
    parser.add_argument("--parts", type=Path, help="keep each family here, and take those that are kept already")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(1)
    earlier = _kept(chosen.families, chosen.parts)
    parts = [_part(family, chosen.parts) for family in chosen.families]
    summary = {**_summary(parts), "of earlier runs": sorted(earlier)}
    print(json.dumps({key: summary[key] for key in ("cells", "outcomes", "largest errors")}, indent=2))
    if chosen.json is not None:
        _write(chosen.json, summary)
    return 1 if summary["failures"] else 0


def _kept(families: Iterable[str], folder: Path | None) -> list[str]:
    """Families that an earlier run left, be it of other code than today's."""
    return [] if folder is None else [family for family in families if (folder / f"{family}.json").exists()]


def _part(family: str, folder: Path | None) -> dict[str, Any]:
    """All cells of a family: what came of them, or what is kept of an earlier run."""
    kept = None if folder is None else folder / f"{family}.json"
    if kept is not None and kept.exists():
        part: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return part
    part = _run_family(family)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, part)
    return part


def _run_family(family: str) -> dict[str, Any]:
    started, outcomes, errors = time.perf_counter(), Counter[str](), dict[str, float]()
    failures, operators = dict[str, str](), set[str]()
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells([family]):
            try:
                result = run(cell, Path(folder))
            except (AssertionError, LaserError, RuntimeError, ValueError) as error:
                failures[str(cell)] = f"{type(error).__name__}: {error}"[:500]
                print(f"FAILED {cell}: {failures[str(cell)]}", flush=True)
                continue
            group = f"{cell.form} {cell.dtype} {cell.basis}"
            outcomes[result.outcome] += 1
            errors[group] = max(errors.get(group, 0.0), result.error)
            operators |= {"::".join(key) for key in result.operators}
    return {
        "family": family,
        "outcomes": dict(outcomes),
        "errors": errors,
        "operators": sorted(operators),
        "failures": failures,
        "seconds": round(time.perf_counter() - started, 1),
        "environment": environment(),
    }


def _summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    errors: dict[str, float] = {}
    for group, error in itertools.chain.from_iterable(part["errors"].items() for part in parts):
        errors[group] = max(errors.get(group, 0.0), error)
    outcomes = sum((Counter(part["outcomes"]) for part in parts), Counter[str]())
    failures = {cell: reason for part in parts for cell, reason in part["failures"].items()}
    return {
        "command": "python -m tests.export.matrix",
        "cells": outcomes.total() + len(failures),
        "families": sorted(part["family"] for part in parts),
        "outcomes": dict(outcomes),
        "largest errors": {group: float(f"{error:.2g}") for group, error in sorted(errors.items())},
        "operators": sorted({operator for part in parts for operator in part["operators"]}),
        "failures": failures,
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "environment": environment(),
    }


def _write(path: Path, data: dict[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=2) + "\n", overwrite=True)


if __name__ == "__main__":
    raise SystemExit(main())
