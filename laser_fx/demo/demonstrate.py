"""`run`: what ``laser-fx demo`` does."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.demo.arms import Arm, Check, measure_arm
from laser_fx.demo.show import show_arms, show_checks, show_files, show_unrolled
from laser_fx.errors import OptionError, OutputPathError, VerificationError
from laser_fx.export import OnnxFile, OnnxModel
from laser_fx.files import write_text
from laser_fx.options import Options
from laser_fx.progress import stage
from laser_fx.reporting import Report, environment
from laser_fx.reporting.terminal import console
from laser_fx.zoo import Solve, held_out, load, models, steps

__all__ = ["FIDELITIES", "run"]

FIDELITIES = (0.95, 0.99, 0.999)
"""The file of the first is verified in full; the others differ from it in their ranks alone."""
_STEPS = {"sudoku": 2, "attention": 3}
"""Supervision steps of the demo, fewer than the models were scored at: the whole must take less than three minutes."""
_EXAMPLES = 12
_EXAMPLE_SEED = 1
"""Of the puzzles on which ranks are measured: not those on which accuracy is."""
_SAME_ANSWERS = 0.995
_SAME_LOGITS = 1e-3


@dataclass
class _Findings:
    """What is known of one model so far."""

    arms: list[Arm] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)


def run(models: Sequence[str] = (), out: str | os.PathLike[str] = "laser-demo", puzzles: int = 500) -> None:
    """Show the whole idea on the shipped models, and write ``out/<model>/`` and ``out/results.json``.

    Args:
        models: names of the zoo; all of them unless given.
        out: folder to write; made if it is missing, files of an earlier demo in it are replaced.
        puzzles: held-out puzzles to measure on.

    Raises:
        VerificationError: some way of running a model does not answer as eager does.
        InputError: an unknown model.
        OutputPathError: the folder cannot be written.
    """
    if puzzles < 1:
        raise OptionError(f"puzzles is {puzzles}", where="demo", fix="choose a whole number of at least 1")
    screen = console(sys.stdout)
    folder = _made(Path(out))
    results = {name: _Demonstration(name, folder, puzzles, screen).run() for name in models or _all_models()}
    show_unrolled(screen)
    _write_json(folder / "results.json", {"environment": environment(), "models": results})
    screen.print(Text(f"\nwrote {folder}/: ONNX files, report.html of each model, results.json"))
    failed = [
        f"{name}: {c['name']} ({c['detail']})" for name, r in results.items() for c in r["checks"] if not c["holds"]
    ]
    if failed:
        raise VerificationError("; ".join(failed), where="demo", fix="report this as a defect, with results.json")


def _all_models() -> tuple[str, ...]:
    return models()


class _Demonstration:
    """One model."""

    def __init__(self, name: str, folder: Path, puzzles: int, console: Console) -> None:
        self.name, self.console = name, console
        self.folder = _made(folder / name)
        self.model, self.depth = load(name), _STEPS.get(name, steps(name))
        self.solve = Solve(self.model, self.depth).eval()
        batch = held_out(name, puzzles)
        self.inputs, self.labels = batch["inputs"], batch["labels"]
        self.example = held_out(name, _EXAMPLES, _EXAMPLE_SEED)
        self.found = _Findings()

    def run(self) -> dict[str, Any]:
        config = self.model.config
        self.console.rule(Text(self.name, style="bold"))
        self.console.print(
            f"TRM, {'token-mixing MLP' if config.mlp_t else 'attention'}, D={config.hidden_size},"
            f" {config.H_cycles} H cycles × {config.L_cycles} L cycles, {self.depth} supervision steps;"
            f" {len(self.inputs)} held-out puzzles"
        )
        step = self._inspect_step()
        eager = self._arm("eager", self.solve)
        compiled = self._compile("compiling, exact", self.solve)
        exact = self._exact(compiled, eager)
        report = self._low_rank(compiled, eager)
        unrolled = self._unrolled_step(exact)
        page = replace(report, saved_bytes=step.saved_bytes)
        page.to_html(self.folder / "report.html", overwrite=True)
        show_arms(self.console, self.found.arms)
        show_files(self.console, self.found.files)
        show_checks(self.console, self.found.checks)
        return {
            "arms": [arm.to_dict() for arm in self.found.arms],
            "checks": [vars(check) for check in self.found.checks],
            "files": [*self.found.files],
            "unrolled_one_step": unrolled,
            "saved_bytes_of_a_training_step": None if step.saved_bytes is None else vars(step.saved_bytes),
            "report": page.to_dict(),
        }

    def _inspect_step(self) -> Report:
        """The nest and the sites of one supervision step, and what training it saves."""
        with self._working("inspecting one supervision step"):
            carry = self.model.initial_carry(self.example)
            batch = {key: self.example[key] for key in ("inputs", "puzzle_identifiers")}
            carry = replace(carry, current_data=batch)
            report = laser_fx.inspect(self.model, (carry, batch))
        report.print()
        return report

    def _exact(self, compiled: CompiledModel, eager: Arm) -> OnnxFile:
        self.console.print(f"\nthe whole solve: {_nest(compiled)}")
        arm = self._arm("compiled, exact", compiled, eager)
        same = torch.equal(arm.logits, eager.logits)
        self._check("compiled logits equal eager's bitwise", same, f"{_difference(arm, eager):.1e}")
        file = self._export(compiled, "model.onnx", "rolled")
        onnx = OnnxModel(file.path)
        rolled = self._arm("ONNX, exact", lambda rows: _logits(onnx(rows)), eager)
        self._check(
            "rolled ONNX logits match eager's",
            _difference(rolled, eager) <= _SAME_LOGITS,
            f"{_difference(rolled, eager):.1e}",
        )
        self._check("rolled ONNX answers as eager", rolled.agreement >= _SAME_ANSWERS, f"{rolled.agreement:.1%}")
        self._other_depth(onnx)
        return file

    def _other_depth(self, onnx: OnnxModel) -> None:
        """The same file, at a depth that it was not traced at."""
        depth, rows = self.depth + 3, self.inputs[:50]
        with torch.no_grad():
            wanted = Solve(self.model, depth)(rows)
        error = _relative(_logits(onnx(rows, depth=depth)), wanted)
        self._check(f"the same file at depth {depth} matches eager", error <= _SAME_LOGITS, f"{error:.1e}")

    def _low_rank(self, exact: CompiledModel, eager: Arm) -> Report:
        """Rising fidelities, up to the first that solves as many puzzles as eager does: its report is the page."""
        tracked = exact
        for fidelity in FIDELITIES:
            with self._working(f"tracking at fidelity {fidelity}"):
                tracked = tracked.with_options(Options(fidelity=fidelity, sites="all"))
                with torch.no_grad():
                    tracked(self.example["inputs"])
                report = tracked.report(training=False)
            file = self._export(tracked, f"lowrank-{fidelity}.onnx", "rolled", verify=fidelity == FIDELITIES[0])
            onnx = OnnxModel(file.path)
            name = f"ONNX, fidelity {fidelity}"
            arm = self._arm(name, lambda rows, onnx=onnx: _logits(onnx(rows)), eager, **_figures(report))
            low, high = arm.score.interval()
            if low <= eager.score.exact <= high:
                break
        return report

    def _unrolled_step(self, rolled: OnnxFile) -> dict[str, Any]:
        """One step written out, beside the whole solve rolled."""
        single = self._compile("compiling one step", Solve(self.model, 1).eval())
        file = self._export(single, "one-step-unrolled.onnx", "unrolled", verify=False)
        return {"nodes": file.nodes, "bytes": file.bytes, "rolled_nodes": rolled.nodes, "rolled_bytes": rolled.bytes}

    def _compile(self, what: str, model: Solve) -> CompiledModel:
        with self._working(what):
            return laser_fx.compile(model, (self.example["inputs"],), options=Options.exact())

    def _export(self, compiled: CompiledModel, name: str, form: Any, *, verify: bool = True) -> OnnxFile:
        with self._working(f"exporting {name}" + (" and verifying it" if verify else "")):
            began = time.perf_counter()
            file = compiled.to_onnx(self.folder / name, form=form, verify=verify, overwrite=True)
            exported = time.perf_counter()
            OnnxModel(file.path)
            loaded = time.perf_counter()
        depth = self.depth if form == "rolled" else 1
        row = {"file": name, "form": form, "steps": f"{depth}, any" if form == "rolled" else "1", "nodes": file.nodes}
        times = {"export_seconds": exported - began, "load_seconds": loaded - exported, "verified": verify}
        self.found.files.append({**row, "bytes": file.bytes, **times})
        return file

    def _arm(self, name: str, answer: Any, eager: Arm | None = None, **figures: float | None) -> Arm:
        with self._working(f"solving {len(self.inputs)} puzzles: {name}"):
            arm = measure_arm(name, answer, self.inputs, self.labels, eager, **figures)
        self.found.arms.append(arm)
        return arm

    def _check(self, name: str, holds: bool, detail: str) -> None:
        self.found.checks.append(Check(name, bool(holds), detail))

    def _working(self, what: str) -> Any:
        return stage(f"{self.name}: {what}")


def _figures(report: Report) -> dict[str, float | None]:
    """FLOPs at the sites in terms of the exact ones, and what the steps measured."""
    taken = [step for site in report.sites for step in site.steps]
    fidelities = [step.fidelity for step in taken if not step.exact]
    flops = report.flops
    return {
        "site_flops": None if flops is None or flops.laser is None else flops.laser / flops.sites,
        "lowest_fidelity": min(fidelities, default=None),
        "exact_share": sum(step.exact for step in taken) / len(taken) if taken else None,
    }


def _nest(compiled: CompiledModel) -> str:
    return " ⊃ ".join(f"{loop.name} × {loop.trip_count}" for loop in compiled.loops.walk())


def _logits(outputs: dict[str, Any]) -> Tensor:
    value: Tensor = next(iter(outputs.values()))
    return value


def _difference(arm: Arm, other: Arm) -> float:
    return _relative(arm.logits, other.logits)


def _relative(actual: Tensor, wanted: Tensor) -> float:
    """Largest difference, in terms of the largest value."""
    return float((actual - wanted).abs().max() / wanted.abs().max())


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(
            f"the folder cannot be made: {error.strerror}", where=str(folder), fix="choose another one with --out"
        ) from error
    return folder


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n", overwrite=True)
