"""The page: what the study says, written from its figures alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["page"]

Figures = dict[str, Any]

_HEAD = """# Does training under a memory plan cost accuracy?

Written by `{command}` from [`benchmarks/results/accuracy.json`](../benchmarks/results/accuracy.json); do not edit.

{answer}

![Exact match by arm, a dot a seed, means with intervals](accuracy.png)
"""

_SETUP = """## What was done

Both architectures of the zoo were trained from scratch under every arm: `sudoku` mixes tokens by an MLP, `attention`
by rotary attention. An arm replaces what is called in a supervision step; weights, optimiser and loss are the same
objects. Within a seed, all arms start from the same weights and see the same puzzles in the same order.

**These are reduced models**, so that a run takes seconds on one thread: 4×4 sudoku with 4 givens, width 48, one block
(`sudoku`) or two (`attention`), H = 2, L = 2, two supervision steps in training and at test, gradients of the last H
cycle, float32. The full-size recipes (6×6 sudoku, widths 256 and 192, two blocks) were not measured, nor was a GPU.
Training stops early, so that a worse gradient would show; a seed near 100 % may hide it.

An answer counts if every cell is right. There are {held_out:,} different held-out puzzles, the same for all runs; by a
hash of the puzzle none is ever trained on, though puzzles that its symmetries make of it are. What is evaluated is the
averaged weights, in PyTorch as it is.

| arm | what it is |
| --- | --- |
{arms}
"""

_DESCRIPTIONS = {
    "eager": "PyTorch as it is",
    "nudged": "eager again, from initial weights larger by one part in a million: what chance alone does to a seed",
    "lean bitwise": '`memory="lean", products="eager"`: the products of eager too, so that every bit is eager\'s',
    "laser 0.99": "LASER by the letter: a basis follows the loop from step to step; fidelity 0.99",
    "laser 0.999": "the same at fidelity 0.999",
    "pooled 0.99": "LASER with one basis for all steps of a call, pooled for the next call; fidelity 0.99",
    "pooled 0.999": "the same at fidelity 0.999",
    "int8": "saved-tensor hooks that keep every float tensor but weights in 8 bits, a scale a row: a peer's method",
}

_READING = """## How to read the tests

- Intervals of shares of one run are Wilson's, those of means over seeds are t intervals, all of 95 %. *Spread* is the
  standard deviation of the paired differences.
- **TOST** asks whether the mean paired difference is within ±{margin:g} points; at p < {level:g} an arm is called
  *equivalent*. If it is not, and the 95 % interval of the difference excludes zero, it is *worse* or *better*; else
  this number of seeds *cannot tell*. *Identical* means that the trained weights are eager's, bit for bit, in every
  seed. Nothing is corrected for the {tests} comparisons.
- **McNemar** compares the final answers of two models, puzzle by puzzle (exact): puzzles that only eager solved
  against those that only the arm solved. It speaks of these models, not of the arm: runs that differ by chance alone
  may give small p values too, see the nudged arm. Pooled over seeds p is smaller than it should be, since all seeds
  answer the same puzzles.
- Training may multiply any difference, so that a seed's result under almost the same gradients differs by points. The
  spread of the nudged arm's differences is that noise; an arm is to be judged against it.
"""

_COSTS = """What an arm keeps of the bytes that eager keeps for backward, and its worst parameter's gradient, in one
step; CPU seconds of a run (eager: {seconds:.1f}):
"""

_CONDITIONS = """## Conditions

`{command}`; one thread of a shared machine; commits {commits}; {environment}. Every run is one line of
[`accuracy_runs.jsonl`](../benchmarks/results/accuracy_runs.jsonl), with the answers to all puzzles. A run whose line
is there is not made again.
"""


def page(figures: Figures) -> str:
    """The page, Markdown.

    Args:
        figures: what `aggregate` returned, as JSON gives it back.
    """
    models: Figures = figures["models"]
    arms = _unique(arm for model in models.values() for arm in model["arms"])
    head = _HEAD.format(command=figures["command"], answer=_answer(figures))
    described = "\n".join(f"| {arm} | {_description(arm, models)} |" for arm in arms)
    setup = _SETUP.format(held_out=figures["held_out"], arms=described)
    tests = sum("against_eager" in arm for model in models.values() for arm in model["arms"].values())
    reading = _READING.format(margin=100 * figures["margin"], level=figures["level"], tests=tests)
    sections = [_model(name, model, figures["first_seeds"]) for name, model in models.items()]
    return "\n".join([head, setup, *sections, reading, _conditions(figures)])


def _answer(figures: Figures) -> str:
    """One sentence for every model."""
    lines = [
        "**What the data say**, by arm, against eager with a margin of {:g} points:".format(100 * figures["margin"]),
        "",
    ]
    for name, model in figures["models"].items():
        groups: dict[str, list[str]] = {}
        for arm, found in model["arms"].items():
            if "against_eager" in found:
                groups.setdefault(found["against_eager"]["verdict"], []).append(_said(arm, found["against_eager"]))
        told = "; ".join(f"*{word}*: {', '.join(members)}" for word, members in groups.items())
        lines.append(f"- `{name}` (eager {_share(model['arms']['eager']['mean'])}): {told}.")
    return "\n".join(lines)


def _said(arm: str, against: Figures) -> str:
    return arm if against["same_weights"] else f"{arm} ({_points(against['mean'])})"


def _description(arm: str, models: Figures) -> str:
    if arm in _DESCRIPTIONS:
        return _DESCRIPTIONS[arm]
    return next(model["arms"][arm]["title"] for model in models.values() if arm in model["arms"])


def _model(name: str, model: Figures, first: int) -> str:
    parts = [
        f"## {name}",
        _results(model),
        _added(model, first),
        _costs(model),
        _tracking(model),
        _seeds(model),
        _control(model),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(model: Figures) -> str:
    rows = [
        (
            arm,
            len(found["runs"]),
            f"{_share(found['mean'])}{_between(found['interval_95'])}",
            *_compared(found.get("against_eager")),
        )
        for arm, found in model["arms"].items()
    ]
    titles = (
        "arm",
        "seeds",
        "exact match",
        "minus eager",
        "spread",
        "TOST p",
        "McNemar, pooled",
        "below 5 %",
        "verdict",
    )
    return _table(titles, rows)


def _added(model: Figures, first: int) -> str:
    """What the first seeds alone say: seeds that are added once results are seen can decide a test."""
    against = {arm: found["against_eager"] for arm, found in model["arms"].items() if "against_eager" in found}
    early = [f"{arm} {_p(found['tost_first'])}" for arm, found in against.items() if found["tost_first"] is not None]
    if not early:
        return ""
    return f"Seeds were added while the study ran. TOST p of the first {first} alone: {', '.join(early)}."


def _compared(against: Figures | None) -> tuple[str, ...]:
    if against is None:
        return ("–",) * 6
    pool, seeds = against["mcnemar_pooled"], len(against["seeds"])
    return (
        f"{_points(against['mean'])}{_between(against['interval_95'], signed=True)}",
        f"{100 * against['deviation']:.2f}",
        _p(against["tost"]),
        f"{pool['only_eager']} : {pool['only_arm']}, p {_p(pool['p'])}",
        f"{against['mcnemar_seeds_below_level']} of {seeds}",
        f"**{against['verdict']}**",
    )


def _costs(model: Figures) -> str:
    rows = [
        (
            arm,
            f"{100 * found['kept_fraction']:.1f} %",
            _scientific(found["gradient_untrained"]["worst_relative_error"]),
            _scientific(found["gradient_trained"]["worst_relative_error"]),
            f"{found['gradient_trained']['least_cosine']:.6f}",
            f"{found['cpu_seconds']:.1f}",
        )
        for arm, found in model["arms"].items()
        if "kept_fraction" in found
    ]
    title = _COSTS.format(seconds=model["arms"]["eager"]["cpu_seconds"])
    titles = ("arm", "kept", "gradient error, untrained", "trained", "least cosine, trained", "CPU s")
    return f"{title}\n{_table(titles, rows)}" if rows else ""


def _tracking(model: Figures) -> str:
    rows = [
        (
            arm,
            found["sites"],
            *(_rate(found["tracking"][name]) for name in ("tracked", "reset", "exact")),
            _number(found["tracking"]["fidelity"], 4),
            _number(found["tracking"]["rank"], 1),
        )
        for arm, found in model["arms"].items()
        if "tracking" in found
    ]
    if not rows:
        return ""
    silent = [
        arm for arm in model["arms"] if arm.startswith(("laser", "pooled")) and "tracking" not in model["arms"][arm]
    ]
    note = (
        f"\n\nUnder {' and '.join(silent)} no site is compressed: no basis would be smaller than what it replaces."
        if silent
        else ""
    )
    titles = ("arm", "sites", "tracked", "reset", "left exact", "mean fidelity", "mean rank")
    return "The bases in training, shares of all steps of all calls:\n\n" + _table(titles, rows) + note


def _seeds(model: Figures) -> str:
    arms = model["arms"]
    cells = {(arm, run["seed"]): run for arm, found in arms.items() for run in found["runs"]}
    rows = [(seed, *(_cell(cells.get((arm, seed))) for arm in arms)) for seed in sorted({seed for _, seed in cells})]
    return "Exact match by seed, with Wilson's intervals, %:\n\n" + _table(("seed", *arms), rows)


def _cell(run: Figures | None) -> str:
    if run is None:
        return "–"
    low, high = run["wilson_95"]
    return f"{100 * run['exact']:.1f} ({100 * low:.1f} – {100 * high:.1f})"


def _control(model: Figures) -> str:
    """The untrained control: answers, and ranks before and after training."""
    solved, count = (sum(run[name] for run in model["untrained"]) for name in ("solved", "count"))
    text = f"The untrained control: the initial weights solve {solved} of {count:,} puzzles"
    if not model["ranks"]:
        return text + "."
    names = ("untrained 0.99", "trained 0.99", "untrained 0.999", "trained 0.999")
    rows = [
        (f"`{site}`", entry["width"], *(_number(entry[name], 0) for name in names))
        for site, entry in model["ranks"].items()
    ]
    titles = ("site", "width", "99 %, untrained", "99 %, trained", "99.9 %, untrained", "99.9 %, trained")
    return f"{text}. Ranks that hold a share of a site's energy, means over seeds:\n\n{_table(titles, rows)}"


def _conditions(figures: Figures) -> str:
    environment = ", ".join(f"{name} {value}" for name, value in figures["environment"].items())
    commits = ", ".join(figures["commits"])
    return _CONDITIONS.format(command=figures["command"], commits=commits, environment=environment)


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _between(interval: Sequence[float] | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    low, high = (_points(bound) if signed else f"{100 * bound:.1f}" for bound in interval)
    return f" ({low} – {high})" if not signed else f" ({low} … {high})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _rate(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
