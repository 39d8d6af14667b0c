"""The page: what was measured, written from the figures alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.deploy.cases import FULL, Size
from benchmarks.deploy.clock import ratio
from benchmarks.deploy.targets import measured, verdicts

__all__ = ["page"]

Figures = Mapping[str, Any]

_HEAD = """# What an exported file costs, and how fast it runs

Written by `{command}` from [`benchmarks/results/deploy.json`](../benchmarks/results/deploy.json); do not edit.

The model is the zoo's Tiny Recursive Model with H = 3, L = 6 and two blocks, untrained, float32: a whole solve of 1 to
64 supervision steps, {calls} calls of a block a step. [deployment.md](deployment.md) says how such a file is made and
served.

{targets}

![Latency by arm, and early exit](deployment-numbers.png)
"""

_HOW = """## How it was measured

- {conditions}
  Every ratio of latencies is the median of the ratios of the rounds of one run, in which all arms take turns. Other
  work on the machine was going on meanwhile; differences of a few percent are near its noise.
- *rolled*, *functions* and *unrolled* are plain ONNX Runtime sessions with default optimisation; *OnnxModel* adds what
  laser-fx checks of every call. *unrolled* is the `functions` file written out by onnx's own inliner, equal nodes
  merged and open dimensions named as torch's exporter names them, since that exporter takes {torch_export:.0f} s for
  {peer_steps} steps. Without these names ONNX Runtime opens it many times slower, which would flatter us.
- *torch.compile* is inductor in its default mode, without dynamic shapes: of a supervision step, or of each call of the
  one network, which compiles sooner.
- All exact arms answer as eager does, apart, of the largest logit, by at most {apart}.
  {rounding}What blocks add to the state is scaled by 0.25 in these models: with fresh weights a solve is chaotic,
  and no two ways to compute 16 steps agree.
- *low rank 0.45 ×* is a rolled file that goes through random frozen bases at 0.45 × of the linear FLOPs at every site:
  its speed, not its answers. *measured* looks in every step at what a basis keeps, as files do by default; the other is
  of `Options(measure=False)`.
"""


def page(figures: Figures) -> str:
    """The page, Markdown.

    Args:
        figures: what `benchmarks.deploy.publish` wrote, as JSON gives it back.
    """
    parts = figures["parts"]
    head = _HEAD.format(command=figures["command"], targets=_targets(figures), calls=2 * 3 * 7)
    sections = [_export(parts), _load(parts), _latency(parts), _early_exit(parts), _low_rank(parts), _gpu(figures)]
    return "\n".join([head, *[part for part in sections if part], _how(figures), _conditions(figures)])


def _targets(figures: Figures) -> str:
    words = {True: "**met**", False: "**missed**", None: "–"}
    rows = [(v.aim, v.target, v.found, words[v.met], v.why) for v in verdicts(figures)]
    return _table(("aim", "target", "measured", "", "reason, or what to know"), rows)


def _export(parts: Figures) -> str:
    how = {
        "loop": "laser-fx, steps by `laser_fx.loop`",
        "verified": "the same, with `verify=True`",
        "traced": "laser-fx, steps traced",
        "torch": "`torch.onnx.export(dynamo=True)`",
    }
    rows = [
        (
            row["title"],
            how[row["how"]],
            f"{row['steps']:,}",
            f"{row['nodes']:,}",
            f"{row['bytes']:,}",
            f"{100 * (row['bytes'] / row['weights'] - 1):+.2f} %".replace("-", "−"),
            f"{row['compile_seconds']:.1f}" if row["compile_seconds"] else "–",
            f"{row['export_seconds']:.1f}",
        )
        for row in measured(parts, "export")
    ]
    titles = (
        "model",
        "exporter",
        "steps",
        "nodes",
        "bytes",
        "over the weights",
        "capture and passes, s",
        "to the file, s",
    )
    return (
        "## Size and export time\n\nCPU seconds; `verify=False` where nothing else is said.\n\n"
        + _table(titles, rows)
        + "\n"
    )


def _load(parts: Figures) -> str:
    rows = [
        (
            row["title"],
            row["form"],
            row["steps"],
            f"{row['nodes']:,}",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['load_seconds']:.2f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        )
        for row in measured(parts, "load")
    ]
    if not rows:
        return ""
    titles = ("model", "form", "steps", "nodes", "MB", "session load, CPU s", "memory, MB")
    note = (
        "Every file in processes of its own; memory is the peak while it is opened and run once, batch 1, above Python "
        "and ONNX Runtime."
    )
    return f"## Load time and memory\n\n{note}\n\n{_table(titles, rows)}{_left_out(parts, 'load')}\n"


def _latency(parts: Figures) -> str:
    cells = list(parts.get("latency", {}).values())
    found = [cell for cell in cells if cell.get("rows")]
    if not found:
        return ""
    arms = [arm for arm in dict.fromkeys(row["arm"] for cell in found for row in cell["rows"]) if arm != "rolled"]
    titles = ("model", "batch", "steps", "rounds", "rolled, CPU s", "rolled, of unrolled", "rolled, of eager", *arms)
    note = (
        "CPU seconds of a call of the rolled file, its part of the unrolled file's and of eager's; then every arm's "
        "part of *rolled*."
    )
    core = [_name(cell) for cell in found if cell.get("core")]
    missing = sorted({f"- *{arm}*: {why}" for cell in cells for arm, why in (cell.get("missing") or {}).items()})
    long = [f"- {'; '.join(core)}: a call takes seconds, so that only three arms ran"] if core else []
    if any(len(cell["rows"][0]["cpu_seconds"]) == 1 for cell in found):
        long += ["- one round: the first call of each arm, after its session was opened; a solve repeats one step"]
    table = _table(titles, [_line(cell, arms) for cell in found])
    notes = "\n".join(["", *_absent(parts["latency"]), *long, *_earlier(parts), *missing])
    return f"## Latency\n\n{note}\n\n{table}\n{notes}\n\n{_written_out(parts)}{_start(parts)}\n"


def _earlier(parts: Figures) -> list[str]:
    """Cells that were measured twice, with what came of the first time."""
    told = [
        f"{next(row['of_unrolled'] for row in cell['rows'] if row['arm'] == 'rolled'):.3f} ({_name(cell)})"
        for cell in parts.get("latency, earlier", {}).values()
    ]
    why = "measured twice, since one or two rounds beside other work had stood out; *rolled*, of unrolled, was then"
    return [f"- {why} {', '.join(told)}"] if told else []


def _absent(cells: Figures) -> list[str]:
    """What the plan has, and no run recorded."""
    wanted = itertools.product(FULL.sizes, FULL.batches, FULL.steps)
    left = [(size, batch, steps) for size, batch, steps in wanted if f"{size.name}/batch {batch}/{steps}" not in cells]
    return [
        f"- {size.title}, batch {batch}, {steps} steps: no run is recorded{_expected(cells, size, batch, steps)}"
        for size, batch, steps in left
    ]


def _expected(cells: Figures, size: Size, batch: int, steps: int) -> str:
    """What a call would take, by what a step of this size and batch took."""
    ones = [cell["one"] for cell in cells.values() if cell["size"] == size.name and cell["batch"] == batch]
    return f", a call of *rolled* takes about {ones[-1] * steps:.0f} s" if ones else ""


def _line(cell: Figures, arms: Sequence[str]) -> tuple[object, ...]:
    rows = {row["arm"]: row for row in cell["rows"]}
    rolled = rows["rolled"]
    mine = rolled["cpu_seconds"]
    parts = [f"{ratio(rows[arm]['cpu_seconds'], mine):.3f}" if arm in rows else "–" for arm in arms]
    unrolled = "–" if rolled["of_unrolled"] is None else f"{rolled['of_unrolled']:.3f}"
    own = (len(mine), f"{rolled['seconds']:.4f}", unrolled, f"{rolled['of_eager']:.3f}")
    return (cell["title"], cell["batch"], cell["steps"], *own, *parts)


def _written_out(parts: Figures) -> str:
    """Beside the file that torch's exporter writes."""
    rows = measured(parts, "written_out")
    told = "; ".join(
        f"{_name(row)}: rolled {row['rolled_of_torch']:.3f}, unrolled {row['unrolled_of_torch']:.3f}" for row in rows
    )
    return f"Of the file that `torch.onnx.export` writes, in a run of their own: {told}.\n\n" if told else ""


def _start(parts: Figures) -> str:
    """What inductor takes until the first answer."""
    rows = measured(parts, "inductor")
    told = "; ".join(f"*{row['arm']}*, {row['title']}, batch {row['batch']}: {row['seconds']:.0f}" for row in rows)
    note = "Until the first answer inductor takes, in CPU seconds, the C++ compiler's included, without its cache"
    return f"{note}: {told}." if told else ""


def _name(cell: Figures) -> str:
    return f"{cell['title']}, batch {cell['batch']}, {cell['steps']} steps"


def _early_exit(parts: Figures) -> str:
    rows = [
        (
            row["title"],
            row["batch"],
            row["per"],
            " / ".join(f"{row['seconds'][steps]:.3f}" for steps in row["deviations"]),
            f"{1e3 * row['slope']:.2f}",
            f"{1e3 * row['intercept']:+.2f}".replace("-", "−"),
            f"± {100 * row['deviation']:.1f} %",
            f"{row['of_plain']:.3f}",
        )
        for row in measured(parts, "early_exit")
    ]
    if not rows:
        return ""
    steps = next(iter(measured(parts, "early_exit")))["deviations"]
    titles = (
        "model",
        "batch",
        "halts per",
        f"CPU s at {', '.join(steps)} steps",
        "ms a step",
        "ms at 0 steps",
        "off proportion",
        "all steps, of a file without halting",
    )
    note = (
        "One file of at most 16 steps, whose halting logit counts the steps, so that the threshold of a call says "
        "where it ends. The line is fitted by least squares; *off proportion* is the least ± that holds all points "
        "beside one time a step."
    )
    return f"## Early exit\n\n{note}\n\n{_table(titles, rows)}{_left_out(parts, 'early_exit')}\n"


def _low_rank(parts: Figures) -> str:
    rows = measured(parts, "low_rank")
    shown = [
        (
            row["title"],
            row["batch"],
            row["choice"],
            f"{row['flops_share']:.2f}",
            f"{1e3 * row['seconds']:.2f}",
            f"{row['speed']:.2f} ×",
            f"{100 * row['solved']:.1f} % of {row['puzzles']:,}, exact {100 * row['exact']:.1f} %",
            "yes" if row["equivalent"] else "no",
        )
        for row in rows
    ]
    titles = (
        "model",
        "batch",
        "bases",
        "linear FLOPs, of exact",
        "CPU ms a call",
        "speed, of the exact file",
        "puzzles solved",
        "equivalent, 1 point",
    )
    note = (
        "A solve of 4 supervision steps, as a rolled file with `measure=False`, through bases of the ranks that "
        "`python -m benchmarks.lowrank` found; what is solved is from its records. Of each model: the cheapest setting "
        "that is equivalent to the exact model, and the best at 0.45 × of the linear FLOPs."
    )
    table = f"{note}\n\n{_table(titles, shown)}" if shown else ""
    return f"## Low rank, the trained models\n\n{table}{_left_out(parts, 'low_rank')}\n"


def _gpu(figures: Figures) -> str:
    return f"## GPU\n\nNot measured on GPU: {figures['gpu']}.\n"


def _how(figures: Figures) -> str:
    parts = figures["parts"]
    peer = next((row for row in measured(parts, "export") if row["how"] == "torch"), {"seconds": 0.0, "steps": 0})
    return _HOW.format(
        conditions=figures["conditions"],
        torch_export=peer["seconds"],
        peer_steps=peer["steps"],
        apart=_apart(parts),
        rounding=_rounding(parts),
    )


def _apart(parts: Figures) -> str:
    """The largest differences of exact arms, by depth."""
    worst: dict[int, float] = {}
    for cell in measured(parts, "latency"):
        found = (row["difference"] for row in cell["rows"] if row["exact"])
        worst[cell["steps"]] = max([worst.get(cell["steps"], 0.0), *found])
    return _by_depth(worst)


def _rounding(parts: Figures) -> str:
    rows = measured(parts, "rounding")
    if not rows:
        return ""
    moved = _by_depth({row["steps"]: row["difference"] for row in rows})
    about = f"{rows[0]['title']}, batch {rows[0]['batch']}"
    return f"Eager's own answer moves, where every weight is one rounding off ({about}), by {moved}.\n  "


def _by_depth(shares: Mapping[int, float]) -> str:
    return ", ".join(f"{share:.0e} at {steps} step{'s' * (steps > 1)}" for steps, share in sorted(shares.items()))


def _conditions(figures: Figures) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in figures["environment"].items())
    return f"## Conditions\n\n`{figures['command']}`; {figures['processor']}, 1 thread; {versions}.\n"


def _left_out(parts: Figures, name: str) -> str:
    entries = parts.get(name, {}).items()
    lines = [f"- {key}: not measured, {v['missing']}" for key, v in entries if isinstance(v.get("missing"), str)]
    return "\n\n" + "\n".join(lines) if lines else ""


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
