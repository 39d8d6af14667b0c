"""From records to the JSON, the page and the picture."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from benchmarks.deploy.page import page
from benchmarks.deploy.picture import draw
from benchmarks.deploy.records import Records
from laser_fx.files import write_text
from laser_fx.reporting import environment

__all__ = ["FIGURES", "PAGE", "PICTURE", "figures", "publish"]

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "benchmarks" / "results" / "deploy.json"
PAGE = ROOT / "docs" / "deployment-numbers.md"
PICTURE = ROOT / "docs" / "deployment-numbers.png"
PARTS = (
    "export",
    "load",
    "latency",
    "latency, earlier",
    "early_exit",
    "rounding",
    "written_out",
    "inductor",
    "profile",
    "low_rank",
)
CONDITIONS = "Times are CPU seconds of one process, one thread; parts were measured in several sittings (`--resume`)."


def figures(records: Records, gpu: str) -> dict[str, Any]:
    """All that the page is written from."""
    return {
        "command": "python -m benchmarks.deploy",
        "conditions": CONDITIONS,
        "processor": _processor(),
        "environment": environment(),
        "gpu": gpu,
        "parts": {name: dict(records.part(name)) for name in PARTS},
    }


def publish(found: dict[str, Any], *, with_page: bool, path: Path = FIGURES) -> None:
    """Write the JSON, and the page and its picture from it."""
    text = json.dumps(found, indent=1) + "\n"
    write_text(path, text, overwrite=True)
    if with_page:
        back = json.loads(text)
        write_text(PAGE, page(back), overwrite=True)
        draw(back, PICTURE)


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
