"""Part one: nodes, bytes and export time by depth, beside what torch's exporter takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.deploy.cases import Plan, Size
from benchmarks.deploy.files import Files, exact
from benchmarks.deploy.records import Records

__all__ = ["measure"]


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``export``: a row for each file."""
    for size, how, depth in _wanted(plan):
        records.once("export", f"{size.name}/{how}/{depth}", partial(_row, files, size, depth, how))


def _wanted(plan: Plan) -> Iterator[tuple[Size, str, int]]:
    first, *others = plan.sizes
    yield from ((first, "loop", depth) for depth in plan.depths)
    yield first, "verified", plan.depths[0]
    yield first, "torch", plan.peer_steps
    yield from ((size, "loop", depth) for size in others[:1] for depth in (plan.depths[0], plan.depths[-1]))
    yield from ((first, "traced", depth) for depth in plan.traced[::-1])


def _row(files: Files, size: Size, depth: int, how: str) -> dict[str, Any]:
    if how == "torch":
        file = files.by_torch(size, depth)
    elif how == "loop":
        file = files.rolled(size, depth)
    elif how == "verified":
        name = f"{size.name}-verified-{depth}"
        file = files.exported(name, lambda: exact(size.looped(depth), size), verify=True)
    else:
        file = files.exported(f"{size.name}-traced-{depth}", lambda: exact(size.solve(depth), size))
    about = {"size": size.name, "title": size.title, "steps": depth, "how": how, "weights": weight_bytes(size)}
    return {**about, **asdict(file), "seconds": file.seconds, "path": None}


def weight_bytes(size: Size) -> int:
    """Bytes of one step's weights: parameters, and buffers that a step reads."""
    trm = size.trm()
    return sum(value.numel() * value.element_size() for value in (*trm.parameters(), *trm.buffers()))
