"""Where a call's time goes, by ONNX Runtime's own profile: what low rank could save at best."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from benchmarks.deploy.cases import Plan
from benchmarks.deploy.files import Files
from benchmarks.deploy.low_rank import SHARE
from benchmarks.deploy.records import Records
from benchmarks.deploy.sessions import answer, session

__all__ = ["bound", "linear_share", "measure"]

CALLS = 5
_LINEAR = re.compile(r"_proj/.*MatMul")
"""Names of the products at sites: after the linears of the zoo, whose names end in ``_proj``."""


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``profile``: for each size, the share of the linears at sites in a call of one step, batch 1."""
    for size in plan.sizes:

        def one(size: Any = size) -> dict[str, Any]:
            share = linear_share(files.rolled(size).path, size.inputs(1))
            return {"size": size.name, "title": size.title, "linear_share": share, "bound": bound(share)}

        records.once("profile", size.name, one)


def bound(share: float) -> float:
    """How much faster a call gets if its linears take `SHARE` of their time.

    >>> round(bound(0.5), 2)
    1.38
    """
    return 1 / (1 - share + SHARE * share)


def linear_share(path: str, inputs: npt.NDArray[Any]) -> float:
    """The linears' part of the time in kernels, over a few calls of one step."""
    with tempfile.TemporaryDirectory() as folder:
        opened = session(path, profile=Path(folder) / "profile")
        for _ in range(CALLS + 1):
            answer(opened, inputs, 1)
        events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    kernels = [event for event in events if _is_kernel(event) and event["ts"] >= runs[1]]  # the first call warms up
    linear = _seconds(event for event in kernels if _LINEAR.search(event["name"]))
    return linear / _seconds(kernels)


def _is_kernel(event: dict[str, Any]) -> bool:
    """Whether a node computes something: a loop's time is that of its body."""
    name = event["name"].endswith("_kernel_time")
    return event.get("cat") == "Node" and name and event["args"]["op_name"] not in ("Loop", "If")


def _seconds(events: Iterable[dict[str, Any]]) -> float:
    return sum(event["dur"] for event in events) / 1e6
