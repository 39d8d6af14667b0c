"""The demo's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rich.console import Console
from rich.table import Table

from laser_fx.demo.arms import Arm, Check

__all__ = ["show_arms", "show_checks", "show_files", "show_unrolled"]


def show_arms(console: Console, arms: Sequence[Arm]) -> None:
    """Accuracy, agreement and cost of each way of running the model."""
    table = Table(title="held-out puzzles", title_justify="left")
    for column in ("", "solved", "95 %", "as eager", "FLOPs", "time"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for arm in arms:
        low, high = arm.score.interval()
        table.add_row(
            arm.name,
            f"{arm.score.exact:.1%}",
            f"{low:.1%} – {high:.1%}",
            f"{arm.agreement:.1%}",
            _ratio(arm.site_flops),
            f"{arm.seconds:.1f} s",
        )
    console.print()
    console.print(table)
    console.print("as eager: whole answers that are eager's. FLOPs: of the exact linears at the sites, on the")
    console.print("example batch, with what it takes to measure, track and reset the bases.")


def show_files(console: Console, files: Sequence[Mapping[str, Any]]) -> None:
    """Size and load time of each file."""
    table = Table(title="ONNX files", title_justify="left")
    for column in ("file", "steps", "nodes", "size", "export", "load"):
        table.add_column(column, justify="left" if column == "file" else "right")
    for file in files:
        checked = " and verify" if file["verified"] else ""
        table.add_row(
            str(file["file"]),
            str(file["steps"]),
            f"{file['nodes']:,}",
            f"{file['bytes'] / 1e6:.1f} MB",
            f"{file['export_seconds']:.1f} s{checked}",
            f"{file['load_seconds']:.2f} s",
        )
    console.print(table)


def show_unrolled(console: Console) -> None:
    """What deeper unrolled files cost: measured before, since it takes minutes."""
    recorded = json.loads(resources.files("laser_fx.demo").joinpath("unrolled_depth.json").read_text(encoding="utf-8"))
    table = Table(title="attention, at other depths", title_justify="left")
    for column in ("steps", "nodes", "size", "export", "load"):
        table.add_column(column, justify="right")
    for row in recorded["rows"]:
        table.add_row(
            f"{row['form']} {row['steps']}",
            f"{row['nodes']:,}",
            f"{row['bytes'] / 1e6:.1f} MB",
            f"{row['export_seconds']:.1f} s",
            f"{row['load_seconds']:.2f} s",
        )
    console.print(table)
    console.print(f"recorded earlier by {recorded['command']} ({recorded['model']}), not measured now")


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Every parity check, one a line."""
    for check in checks:
        mark = "[green]✓[/]" if check.holds else "[red]✗[/]"
        console.print(f"{mark} {check.name}: {check.detail}")


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"
