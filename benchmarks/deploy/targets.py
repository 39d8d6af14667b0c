"""What an exported file was to reach, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.deploy.cases import FULL

__all__ = ["Verdict", "measured", "verdicts"]

Figures = Mapping[str, Any]
STEPS, PEER_STEPS = FULL.load_steps, FULL.peer_steps
FIRST = FULL.sizes[0].name


@dataclass(frozen=True)
class Verdict:
    """One line of the table of aims.

    Args:
        aim: what was to be reached.
        found: what was measured, in words.
        met: None where nothing was measured.
        why: the measured reason of a miss, or what is to be known.
    """

    aim: str
    target: str
    found: str
    met: bool | None
    why: str = ""


def verdicts(figures: Figures) -> list[Verdict]:
    """Every line, in the order of the table."""
    parts = figures["parts"]
    export, load = measured(parts, "export"), measured(parts, "load")
    makers = (
        lambda: _nodes(export),
        lambda: _bytes(export),
        lambda: _export(export, "loop"),
        lambda: _export(export, "traced"),
        lambda: _export_by_depth(export),
        lambda: _load(load, "unrolled"),
        lambda: _load_by_torch(load),
        lambda: _latency(parts, "of_unrolled", 1.03, "`rolled`, of unrolled"),
        lambda: _latency(parts, "of_eager", 0.8, "`rolled`, of torch eager"),
        lambda: _early_exit(parts),
        lambda: _low_rank_speed(parts),
        lambda: _low_rank_flops(parts),
        lambda: _low_rank_trained_speed(parts),
        lambda: _gpu(figures),
    )
    return [make() for make in makers]


def measured(parts: Figures, name: str) -> list[Figures]:
    """The entries of a part that were measured; what was not has its reason as a text."""
    return [values for values in parts.get(name, {}).values() if not isinstance(values.get("missing"), str)]


def _nodes(export: list[Figures]) -> Verdict:
    target = "the same at any depth"
    counts = [
        {row["nodes"] for row in export if row["how"] == "loop" and row["size"] == size}
        for size in dict.fromkeys(row["size"] for row in export)
    ]
    depths = sorted({row["steps"] for row in export if row["how"] == "loop"})
    if not depths:
        return _absent("nodes of `rolled`", target)
    found = f"{min(map(min, counts))} nodes at {_range(depths)} steps"
    return Verdict("nodes of `rolled`", target, found, all(len(each) == 1 for each in counts))


def _bytes(export: list[Figures]) -> Verdict:
    target = "≤ 1 % more than one step's weights"
    rows = [row for row in export if row["how"] == "loop"]
    if not rows:
        return _absent("bytes of `rolled`", target)
    over = {row["title"]: row["bytes"] / row["weights"] - 1 for row in rows}
    spread = max(
        max(row["bytes"] for row in rows if row["size"] == size)
        - min(row["bytes"] for row in rows if row["size"] == size)
        for size in {row["size"] for row in rows}
    )
    found = ", ".join(f"{title}: +{100 * value:.2f} %" for title, value in over.items())
    why = f"between the least depth and the greatest a file grows by at most {spread} bytes, the digits of the depth"
    return Verdict("bytes of `rolled`", target, found, max(over.values()) <= 0.01, why)


def _spread(values: list[int]) -> int:
    return max(values) - min(values)


def _export(export: list[Figures], how: str) -> Verdict:
    written = {"loop": "steps by `laser_fx.loop`", "traced": "steps traced one by one"}[how]
    aim, target = f"export time, {STEPS} steps, {written}", f"≤ 1/10 of `torch.onnx.export` for {PEER_STEPS}"
    mine, peer = _one(export, how, STEPS), _one(export, "torch", PEER_STEPS)
    if mine is None or peer is None:
        return _absent(aim, target)
    share = mine["seconds"] / peer["seconds"]
    found = f"{share:.3f}: {mine['seconds']:.1f} s of {peer['seconds']:.0f} s"
    why = ""
    if share > 0.1:
        part = mine["compile_seconds"] / mine["seconds"]
        why = f"{100 * part:.0f} % of it is capture and detection, in proportion to the {STEPS} steps that are traced"
    return Verdict(aim, target, found, share <= 0.1, why)


def _export_by_depth(export: list[Figures]) -> Verdict:
    aim, target = "export time by depth, `laser_fx.loop`", "the same from 16 to 1,024 steps"
    rows = [row for row in export if row["how"] == "loop" and row["size"] == FIRST and row["steps"] >= STEPS]
    if len(rows) < 2:
        return _absent(aim, target)
    times = [row["seconds"] for row in rows]
    found = f"{min(times):.1f} to {max(times):.1f} s at {_range(sorted(row['steps'] for row in rows))} steps"
    slope = max(rows, key=lambda row: row["steps"])["seconds"] / min(rows, key=lambda row: row["steps"])["seconds"]
    why = (
        f"the deepest takes {slope:.2f} × of the least deep, the slowest {max(times) / min(times):.2f} × of the fastest"
    )
    return Verdict(aim, target, found, slope <= 1.2, why)


def _load(load: list[Figures], form: str) -> Verdict:
    aim, target = f"session load, {STEPS} steps", "≤ 1/20 of the unrolled file's"
    pairs = [
        (mine, other)
        for mine in load
        for other in load
        if mine["form"] == "rolled" and other["form"] == form
        if mine["size"] == other["size"] and mine["steps"] == other["steps"]
    ]
    if not pairs:
        return _absent(aim, target)
    shares = {mine["title"]: mine["load_seconds"] / other["load_seconds"] for mine, other in pairs}
    found = "; ".join(
        f"{mine['title']}: 1/{other['load_seconds'] / mine['load_seconds']:.0f} "
        f"({mine['load_seconds']:.2f} s of {other['load_seconds']:.1f} s)"
        for mine, other in pairs
    )
    return Verdict(aim, target, found, max(shares.values()) <= 1 / 20)


def _load_by_torch(load: list[Figures]) -> Verdict:
    aim = f"session load, beside torch's file of {PEER_STEPS} steps"
    mine = next((row for row in load if row["form"] == "rolled" and row["size"] == FIRST), None)
    other = next((row for row in load if row["form"] == "torch"), None)
    if mine is None or other is None:
        return _absent(aim, "none set")
    found = f"1/{other['load_seconds'] / mine['load_seconds']:.0f} of its {other['load_seconds']:.2f} s"
    return Verdict(aim, "none set", found, None, "for comparison")


def _latency(parts: Figures, key: str, most: float, aim: str) -> Verdict:
    target = f"≤ {most:g}"
    cells = [cell for cell in measured(parts, "latency") if cell["rows"]]
    found = [(cell, row) for cell in cells for row in cell["rows"] if row["arm"] == "rolled" and row[key]]
    if not found:
        return _absent(f"latency of {aim}", target)
    values = sorted(row[key] for _, row in found)
    cell, worst = max(found, key=lambda pair: pair[1][key])
    calls = len(worst["cpu_seconds"])
    above = sum(value > most for value in values)
    span = f"{values[0]:.2f} to {values[-1]:.2f}, median {values[len(values) // 2]:.3f}, over {len(values)} cells"
    timed = f"{_cell(cell)} most of all, by {'one call' if calls == 1 else f'{calls} calls'} of each arm"
    why = f"{above} of {len(values)} cells are above, {timed}" if above else ""
    return Verdict(f"latency of {aim}", target, span, not above, why)


def _early_exit(parts: Figures) -> Verdict:
    aim, target = "early exit", "time in proportion to the steps taken, ± 5 %"
    rows = measured(parts, "early_exit")
    if not rows:
        return _absent(aim, target)
    worst = max(rows, key=lambda row: row["deviation"])
    found = f"within ± {100 * worst['deviation']:.1f} %"
    of_plain = max(row["of_plain"] for row in rows)
    why = f"all {max(map(int, worst['deviations']))} steps take {of_plain:.2f} × of a file without halting, at most"
    return Verdict(aim, target, found, worst["deviation"] <= 0.05, why)


def _low_rank_speed(parts: Figures) -> Verdict:
    aim, target = "low rank at 0.45 × linear FLOPs, end to end", "≥ 1.5 × as fast, D ≥ 256"
    gains = []
    for cell in measured(parts, "latency"):
        rows = {row["arm"]: row for row in cell["rows"]}
        low = next((row for name, row in rows.items() if name.startswith("low rank")), None)
        if low and "rolled" in rows:
            gains.append((rows["rolled"]["seconds"] / low["seconds"], cell))
    if not gains:
        return _absent(aim, target)
    values = sorted(gain for gain, _ in gains)
    below = [cell for gain, cell in gains if gain < 1.5]
    found = f"{values[0]:.2f} to {values[-1]:.2f} ×, median {values[len(values) // 2]:.2f} ×, over {len(values)} cells"
    why = f"below in {len(below)} of {len(values)} cells: {_bounds(parts)}" if below else ""
    return Verdict(aim, target, found, not below, why)


def _bounds(parts: Figures) -> str:
    """What the linears' part of the time allows."""
    rows = measured(parts, "profile")
    shares = "; ".join(f"{row['title']} {100 * row['linear_share']:.0f} %, {row['bound']:.2f} ×" for row in rows)
    return f"the linears' part of a call of batch 1, and what 0.45 × of it can give: {shares}"


def _low_rank_flops(parts: Figures) -> Verdict:
    aim, target = "low rank of the trained models, accuracy equal", "≤ 0.45 × linear FLOPs"
    rows = [row for row in measured(parts, "low_rank") if row["batch"] == 1]
    titles = list(dict.fromkeys(row["title"] for row in rows))
    if not titles:
        return _absent(aim, target)
    best = [_cheapest(title, [row for row in rows if row["title"] == title]) for title in titles]
    found = "; ".join(words for words, _ in best)
    reached = all(share <= 0.45 for _, share in best)
    return Verdict(aim, target, found, reached, "" if reached else "what less costs in answers is in the table below")


def _cheapest(title: str, rows: list[Figures]) -> tuple[str, float]:
    """The cheapest setting that is equivalent, in words, and its FLOPs; 1 where there is none."""
    equal = sorted((row for row in rows if row["equivalent"]), key=lambda row: row["flops_share"])
    if not equal:
        return f"{title}: none is equivalent", 1.0
    row = equal[0]
    return f"{title}: {row['flops_share']:.2f} ×, {row['speed']:.2f} × as fast", row["flops_share"]


def _low_rank_trained_speed(parts: Figures) -> Verdict:
    aim, target = "low rank of the trained models of D ≥ 256, accuracy equal", "≥ 1.5 × as fast"
    rows = [row for row in measured(parts, "low_rank") if row["width"] >= 256 and row["equivalent"]]
    batches = sorted({row["batch"] for row in rows})
    if not batches:
        return _absent(aim, target)
    best = [max((row for row in rows if row["batch"] == batch), key=lambda row: row["speed"]) for batch in batches]
    found = "; ".join(f"batch {row['batch']}: {row['speed']:.2f} × ({row['choice']})" for row in best)
    met = all(row["speed"] >= 1.5 for row in best)
    return Verdict(aim, target, found, met, "" if met else "at 36 tokens; what else a call computes stays as it is")


def _gpu(figures: Figures) -> Verdict:
    aim = "GPU: `step` with a CUDA graph, batch 1"
    return Verdict(aim, "≥ 2 × over the unrolled file", "not measured on GPU", None, figures["gpu"])


def _absent(aim: str, target: str) -> Verdict:
    return Verdict(aim, target, "not measured", None)


def _one(rows: Iterable[Figures], how: str, steps: int) -> Figures | None:
    found = (row for row in rows if row["how"] == how and row["steps"] == steps and row["size"] == FIRST)
    return next(found, None)


def _cell(cell: Figures) -> str:
    return f"{cell['title']}, batch {cell['batch']}, {cell['steps']} step{'s' if cell['steps'] > 1 else ''}"


def _range(values: list[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
