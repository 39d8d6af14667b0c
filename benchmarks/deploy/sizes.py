"""Part one: nodes, bytes and export time by depth, beside what torch's exporter takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.deploy.cases import Plan, Size
from benchmarks.deploy.files import Files, exact
from benchmarks.deploy.records import Records

__all__ = ["measure"]


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``export``: a row for each file."""
    first = plan.sizes[0]
    for depth in plan.depths:
        records.once("export", f"{first.name}/loop/{depth}", lambda d=depth: _row(files, first, d, "loop"))  # type: ignore[misc]
    for size in plan.sizes[1:]:
        for depth in (plan.depths[0], plan.depths[-1]):
            records.once("export", f"{size.name}/loop/{depth}", lambda s=size, d=depth: _row(files, s, d, "loop"))  # type: ignore[misc]
    records.once("export", f"{first.name}/verified/{plan.depths[0]}", lambda: _row(files, first, plan.depths[0], "verified"))
    for depth in plan.traced:
        records.once("export", f"{first.name}/traced/{depth}", lambda d=depth: _row(files, first, d, "traced"))  # type: ignore[misc]
    records.once("export", f"{first.name}/torch/{plan.peer_steps}", lambda: _row(files, first, plan.peer_steps, "torch"))


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
