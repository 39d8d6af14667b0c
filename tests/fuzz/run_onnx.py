"""``python -m tests.fuzz.run_onnx --cases 200``: random loop nests as files of every form, beside eager."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import hypothesis
import numpy as np
import torch

import laser_fx
from laser_fx.errors import ExportError
from laser_fx.export import OnnxModel
from laser_fx.export.build import Form
from laser_fx.export.compare import cost
from laser_fx.export.schema import FORMS
from laser_fx.export.tolerances import FLOAT32
from laser_fx.files import write_text
from laser_fx.options import Options
from laser_fx.reporting import environment
from tests.export.no_step import why_no_step
from tests.export.registry_cache import parse_functions_once
from tests.fuzz.build import INPUTS, ROWS, SHAPES
from tests.fuzz.kinds import Kind
from tests.fuzz.program import Case, Level, cases
from tests.fuzz.run import fuzz
from tests.fuzz.script import model_source

__all__ = ["ONNX_KIND", "main"]

_BUT = "; refused: "
"""Between what a case turned out to be and why it has no step."""


def _settled(level: Level) -> Level:
    """The level without what draws random numbers, of three steps at most, with one loop in it at most."""
    drawn = {"dropout": "tanh", "noise": "sin"}
    operations = tuple(replace(o, name=drawn.get(o.name, o.name)) for o in level.operations)
    inner = tuple(_settled(nested) for nested in level.inner[:1])
    return replace(level, operations=operations, inner=inner, trips=min(level.trips, 3), without_gradients=0)


def settled(case: Case) -> Case:
    """A case whose answers depend on its inputs alone, small enough to be exported in a second."""
    return replace(case, levels=tuple(_settled(level) for level in case.levels))


def exported(case: Case, forms: Sequence[str] = FORMS) -> str:
    """Write every form, and compare each with eager at another batch size; what it turned out to be, in a word.

    Args:
        case: a program.
        forms: what to write. A step that is refused for a reason that is known is named in the result.

    Raises:
        AssertionError: a file answers otherwise than eager.
    """
    parse_functions_once()
    scope: dict[str, Any] = {"__name__": "fuzzed"}
    exec(model_source(case), scope)
    return compare_forms(scope["Model"], case, forms)


def compare_forms(make: Any, case: Case, forms: Sequence[str]) -> str:
    """See `exported`."""
    torch.manual_seed(0)
    model = make().eval()
    compiled = laser_fx.compile(model, options=Options.exact())
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        compiled(*_inputs(ROWS))
        given = _inputs(ROWS + 2)
        expected = [value.double().numpy() for value in model(*given)]
        written = {form: _written(compiled, Path(folder) / f"{form}.onnx", form) for form in forms}
        for form, refused in written.items():
            if refused is None:
                answers = OnnxModel(Path(folder) / f"{form}.onnx")(*given).values()
                _compare([value.double().numpy() for value in answers], expected, form)
    loops = len(compiled.loops.trips())
    found = "no loop" if not loops else f"{loops} loops" if loops > 1 else "1 loop"
    return found + "".join(f"{_BUT}{form}, {why}" for form, why in written.items() if why is not None)


def _written(compiled: Any, path: Path, form: str) -> str | None:
    """Write a file; why there is none, where the form has none for such a program."""
    try:
        compiled.to_onnx(path, form=form, verify=False)
    except ExportError as error:
        if form != "step" or (why := why_no_step(error)) is None:
            raise
        return why
    return None


def _compare(answers: Sequence[Any], expected: Sequence[Any], form: str) -> None:
    assert len(answers) == len(expected), f"{form}: {len(answers)} outputs, not {len(expected)}"
    for position, (answer, value) in enumerate(zip(answers, expected, strict=True)):
        assert answer.shape == value.shape, f"{form}: output {position} has shape {answer.shape}"
        error = cost(value, answer) if np.isfinite(value).all() else 0.0
        assert error <= FLOAT32.exact, f"{form}: output {position} is {error:.1e} from eager"


def _inputs(rows: int) -> list[torch.Tensor]:
    torch.manual_seed(rows)
    return [torch.randn(rows, *SHAPES[name][1:]) for name in INPUTS]


def onnx_script(case: Case, title: str) -> str:
    """A script that exits with 1 as long as the defect is there; it runs from the root of the repository."""
    return "\n".join(
        [
            f'"""{title}"""\n\nfrom tests.fuzz.program import Case, Level, Mutation, Operation',
            "from tests.fuzz.run_onnx import exported\n",
            f"CASE = {case!r}\n",
            'if __name__ == "__main__":\n    print(exported(CASE))\n',
        ]
    )


ONNX_KIND = Kind(
    1000, (cases(training=False) | cases(mutated=True, training=False)).map(settled), exported, onnx_script
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run_onnx", description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=get_args(Form))
    parser.add_argument("--json", type=Path, help="write a summary to this file")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started, done = time.perf_counter(), itertools.count(1)
    kind = replace(ONNX_KIND, check=partial(exported, forms=chosen.forms))
    outcome = fuzz(kind, chosen.cases, chosen.seed, advance=lambda: print(next(done), end=" ", flush=True))
    seconds = time.perf_counter() - started
    for path in outcome.failures:
        print(f"\n  FAILED: PYTHONPATH=. python {path}")
    print(f"\n{outcome.cases} cases in {seconds:.0f} s: {dict(outcome.counts)}")
    if chosen.json is not None:
        summary = {
            "command": shlex.join(["python", "-m", "tests.fuzz.run_onnx", *sys.argv[1:]]),
            "cases": outcome.cases,
            "forms": list(chosen.forms),
            "seed": chosen.seed,
            "seconds": round(seconds, 1),
            **_by_kind(outcome.counts),
            "failures": [path.name for path in outcome.failures],
            "environment": {**environment(), "hypothesis": hypothesis.__version__},
        }
        write_text(chosen.json, json.dumps(summary, indent=2) + "\n", overwrite=True)
    return 1 if outcome.failures else 0


def _by_kind(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """What the cases were, and how many of them a form was refused to, by the reason."""
    found, refused = Counter[str](), Counter[str]()
    for result, count in counts.items():
        what, *reasons = result.split(_BUT)
        found[what] += count
        refused.update(dict.fromkeys(reasons, count))
    return {"counts": dict(sorted(found.items())), "refused": dict(sorted(refused.items()))}


if __name__ == "__main__":
    raise SystemExit(main())
