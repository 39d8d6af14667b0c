"""Writes docs/families.md from the registry: ``python -m tests.families.table``.

The tests of this folder assert what the table says, of every line of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from tests.families.expected import EXPECTED, Figures, Nest
from tests.families.near_loops import NEAR_LOOPS, STEPS, NearLoop
from tests.families.registry import FAMILIES, Family

PAGE = Path(__file__).parents[2] / "docs" / "families.md"

HEAD = """# Recursive models whose loops are found

Written by `python -m tests.families.table` from `tests/families`; the tests there assert every line, and that this page
is what the command writes.

- **Nest**: trip counts. `3 ⊃ 2` is a loop of 2 steps inside one of 3; `3, 2` is one after the other.
- **Carries, invariants, per-step values, step outputs**: one number for each loop of the nest in evaluation, in its
  order. Weights and buffers are not counted as invariants.
- **Forward, gradients = eager**: bitwise, with `Options.exact()` on the CPU, at batch sizes other than the one compiled
  for; gradients of every parameter and input, with the same seed for dropout and masks.
- **ONNX**: the rolled file was verified, and answers as eager does.

`tests/families/expected.py` says why a nest differs from the loops that the model's author wrote.

"""

COLUMNS = (
    "family",
    "nest in evaluation",
    "nest in training",
    "carries",
    "invariants",
    "per-step values",
    "step outputs",
    "forward = eager",
    "gradients = eager",
    "ONNX",
)

NEAR_HEAD = f"""
## Repetitions that are no loop

One thing differs in one of {STEPS} steps, or in all of them. What is found instead are the loops before and after that
step; none spans it. Forward and gradients equal eager's bitwise here too.

"""


def page() -> str:
    """The whole page."""
    families = table(
        COLUMNS,
        (row(FAMILIES[name], EXPECTED[name].evaluation, EXPECTED[name].training) for name in FAMILIES),
    )
    near = table(
        ("repetition", "loops that are found", "the reason names"), (near_row(*item) for item in NEAR_LOOPS.items())
    )
    return HEAD + families + NEAR_HEAD + near


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = tuple(head)
    lines = (head, ("---",) * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def row(family: Family, evaluation: Nest, training: Nest) -> tuple[str, ...]:
    onnx = "verified" if family.refused_by_onnx is None else f"refused: `{family.refused_by_onnx}`"
    numbers = (
        each(evaluation, read)
        for read in (lambda f: f.carry, lambda f: f.invariants, lambda f: f.per_step, lambda f: f.outputs)
    )
    return family.title, drawn(evaluation), drawn(training), *numbers, "yes", "yes", onnx


def near_row(name: str, near: NearLoop) -> tuple[str, str, str]:
    found = ", ".join(str(trips) for _, trips in near.trips) or "none"
    return name.replace("_", " "), found, near.keyword if near.captured else "`CaptureError`, at capture"


def each(nest: Nest, read: Callable[[Figures], int]) -> str:
    """One number for each loop."""
    return ", ".join(str(read(loop)) for loop in nest)


def drawn(nest: Nest) -> str:
    """Trip counts, with ⊃ between a loop and those inside it."""
    parts = []
    for start, loop in enumerate(nest):
        if loop.level > nest[0].level:
            continue
        after = nest[start + 1 :]
        length = next((i for i, other in enumerate(after) if other.level <= loop.level), len(after))
        inner = drawn(after[:length])
        several = sum(other.level == loop.level + 1 for other in after[:length]) > 1
        parts.append(f"{loop.trips}" + (f" ⊃ ({inner})" if several else f" ⊃ {inner}" if inner else ""))
    return ", ".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
