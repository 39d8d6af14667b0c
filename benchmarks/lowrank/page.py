"""The page: what the measurements say, written from the figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["page"]

Figures = dict[str, Any]

_HEAD = """# What low rank saves at inference

Written by `{command}` from [`benchmarks/results/lowrank.json`](../benchmarks/results/lowrank.json); do not edit.

{answer}

![Puzzles solved by share of the linear FLOPs, a curve a choice](lowrank.png)
"""

_SETUP = """## What was done

Both models of the zoo, as shipped, solve 6×6 sudoku with 12 givens in {steps} supervision steps. Every linear in the
loops may be computed through a basis: `Y ≈ (XA)B` with k columns, for `k (D + F)` multiply-adds a row instead of `D
F`. What differs is what the basis keeps:

| choice | the basis keeps |
| --- | --- |
| activation | X, in the mean square: the method of the paper |
| output | `Y = XWᵀ`, in the mean square: truncated SVD of `C^{{1/2}}Wᵀ`, `C = XᵀX` |
| activation or output, by site | whichever is predicted to move the answer less, site by site |
| answer | what the answer depends on of Y: errors are weighed by gradients of random readings of the logits, `E[gᵀg]` |
| per step | one basis for each step position of the loops instead of one for all |
| last step exact | the rank schedule `(1.0, "exact")`: the outermost loop is split, and its last step has no basis |

Ranks of all sites come from one rule for every choice: the least predicted movement of the answer at a given number
of operations. Bases, gradients and ranks were made of {searched} *training* puzzles. That the gradients help was seen
first on some 400 other puzzles of the test split; the ones here were drawn afterwards. Every choice was asked for
{goal:g} × the linear FLOPs, the other points are the rest of its curve.
Held-out puzzles are {held_out:,}, the same for all; a setting that had lost more than {hopeless:g} points after a
multiple of {look:,} puzzles was measured no further.

FLOPs are those of the linears at sites, two for each multiply-add, at the rows and steps of the program; attention,
norms, embeddings and the head are not among them, nor is the folding of the factors, once a call or, in an exported
file, once a session. TOST asks whether the paired difference to the exact model, puzzle by puzzle, is within
±{margin:g} point; at p < {level:g} a setting is called *equivalent*. Nothing is corrected for the number of
comparisons.
"""

_CONDITIONS = """## Conditions

`{command}`; {threads} thread of a shared machine, CPU; PyTorch, linears by oneDNN; {environment}.
No time was measured here: fewer FLOPs are less time only where a narrow product is as fast as a wide one. Every point
is one line of [`lowrank_runs.jsonl`](../benchmarks/results/lowrank_runs.jsonl), with the rank of every site. A point
whose line is there is not measured again.
"""


def page(figures: Figures) -> str:
    """The page, Markdown.

    Args:
        figures: what `aggregate` returned, as JSON gives it back.
    """
    head = _HEAD.format(command=figures["command"], answer=_answer(figures))
    setup = _SETUP.format(
        steps=figures["calibrated_at"],
        searched=figures["searched"],
        goal=figures["goal"],
        held_out=figures["held_out"],
        look=figures["look"],
        hopeless=100 * figures["hopeless"],
        margin=100 * figures["margin"],
        level=figures["level"],
    )
    sections = [_model(name, points, figures) for name, points in figures["models"].items()]
    conditions = _CONDITIONS.format(
        command=figures["command"],
        threads=figures["threads"],
        environment=", ".join(f"{name} {value}" for name, value in figures["environment"].items()),
    )
    return "\n".join([head, *sections, setup, conditions])


def _answer(figures: Figures) -> str:
    lines = [f"**The goal**: at most {figures['goal']:g} × the linear FLOPs at equivalent accuracy.", ""]
    for name, points in figures["models"].items():
        own = [p for p in points if p["steps"] == figures["calibrated_at"]]
        equivalent = sorted(
            (p for p in own if p["equivalent"]), key=lambda p: (round(p["flops_share"], 2), -p["accuracy"])
        )
        if not own:
            lines.append(f"- `{name}`: not measured.")
            continue
        if not equivalent:
            lines.append(f"- `{name}`: missed. Nothing that was measured is equivalent to the exact model.")
            continue
        best = equivalent[0]
        word = "met" if best["flops_share"] <= figures["goal"] + 1e-3 else "missed"
        lines.append(
            f"- `{name}`: {word}. *{best['choice']}* takes {best['flops_share']:.2f} × and solves "
            f"{_share(best['accuracy'])}, the exact model {_share(best['exact_accuracy'])} "
            f"({_points(best['difference'])} points, TOST p {_p(best['tost'])}). {_others(own, figures)}"
        )
    return "\n".join(lines)


def _others(points: Sequence[Figures], figures: Figures) -> str:
    """What the choices without the gradients are at the goal."""
    at_goal = [p for p in points if p["share"] == figures["goal"] and not p["choice"].startswith("answer")]
    told = [f"*{p['choice']}* {_share(p['accuracy'])}{'' if p['equivalent'] else ', not equivalent'}" for p in at_goal]
    return f"At {figures['goal']:g} ×: {'; '.join(told)}." if told else ""


def _model(name: str, points: Sequence[Figures], figures: Figures) -> str:
    titles = (
        "choice",
        "steps",
        "FLOPs",
        "puzzles",
        "solved",
        "exact",
        "difference",
        "lost : gained",
        "TOST p",
        "verdict",
    )
    rows = [
        (
            p["choice"],
            p["steps"],
            f"{p['flops_share']:.3f}",
            f"{p['puzzles']:,}",
            f"{_share(p['accuracy'])} ({100 * p['interval_95'][0]:.2f} – {100 * p['interval_95'][1]:.2f})",
            _share(p["exact_accuracy"]),
            _points(p["difference"]),
            f"{p['lost']} : {p['gained']}",
            _p(p["tost"]),
            "**equivalent**" if p["equivalent"] else "not shown",
        )
        for p in points
    ]
    further = any(p["steps"] != figures["calibrated_at"] for p in points)
    note = (
        "\nAt other steps than {0} the bases are those that were made at {0}.\n".format(figures["calibrated_at"])
        if further
        else ""
    )
    return f"## {name}\n\n{_table(titles, rows)}\n{note}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
