"""``laser-fx bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from laser_fx.cli.arguments import Batch, Factory, Inputs, Overwrite, Seed, example_of
from laser_fx.cli.complete import arm_names
from laser_fx.cli.told import Ends, note, say, told
from laser_fx.export.tolerances import tolerance_of
from laser_fx.files import check_target, write_text
from laser_fx.options import Memory, Options
from laser_fx.reporting import format as fmt
from laser_fx.reporting.terminal import Harmless, console, encoding_of, plain_text

if TYPE_CHECKING:
    from laser_fx.bench import ArmResult, BenchResult

__all__ = ["bench"]

_WIDTH = 120
_WIDE = 104
_EXACT = ("exact", "onnx")
_SAME = 1e-3
"""What an exact arm may be off by in float32: rounding of another order, in a recursion that amplifies it."""


def bench(
    factory: Factory,
    inputs: Inputs = None,
    batch: Batch = None,
    seed: Seed = 0,
    fidelity: Annotated[float, typer.Option(help="Of the arm compiled, in (0, 1].")] = 0.999,
    memory: Annotated[
        str, typer.Option(help="What training under the arm compiled keeps: laser, lean, min, or a fraction.")
    ] = "laser",
    rounds: Annotated[int, typer.Option(min=1, help="In each of them every arm runs once.")] = 5,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="eager, exact, compiled, torch.compile or onnx; again for more. All unless given.",
            autocompletion=arm_names,
        ),
    ] = None,
    training: Annotated[bool, typer.Option(help="Measure what a training call keeps for backward.")] = True,
    out: Annotated[Path | None, typer.Option(help="Also write every sample as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every sample as JSON instead of a table.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Time a model in eager, compiled, by torch.compile and in ONNX Runtime, and count what training it keeps.

    Exit codes: 0 measured; 1 an arm that is exact does not answer as eager does; 2 nothing could be measured.
    """
    with told():
        from laser_fx.bench import bench as measure  # it imports what the other commands do without

        options = Options(fidelity=fidelity, memory=_memory(memory))
        if out is not None:
            check_target(out, overwrite=overwrite)
        example = example_of(factory, inputs, batch, seed)
        result = measure(
            example.model,
            example.args,
            example.kwargs,
            options=options,
            rounds=rounds,
            arms=tuple(arm or ()),
            training=training,
        )
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        if out is not None:
            write_text(out, text + "\n", overwrite=overwrite)
            note(f"wrote {out}")
        say(text) if as_json else _print(result)
        wrong = list(_wrong(result, _excused(example.model, result)))
        for sentence in wrong:
            note(f"error: {sentence}")
        if wrong:
            raise typer.Exit(Ends.OTHERWISE)


def _memory(text: str) -> Memory | float:
    try:
        return float(text)
    except ValueError:
        return cast(Memory, text)  # Options says which there are


def _excused(model: nn.Module, result: BenchResult) -> float:
    """What an exact arm may be off by: more where numbers are of half precision."""
    held = [str(tensor.dtype).removeprefix("torch.") for tensor in (*model.parameters(), *model.buffers())]
    given = [text.partition("[")[0] for text in result.inputs]
    return max(_SAME, tolerance_of((*held, *given)).exact)


def _wrong(result: BenchResult, excused: float) -> Iterator[str]:
    """A sentence for each exact arm that ran and does not answer as eager does."""
    for arm in result.arms:
        if arm.name not in _EXACT or arm.failed is not None:
            continue
        if arm.error is None:
            yield f"{arm.name} returns tensors of other sizes"
        elif not arm.error <= excused:
            yield f"{arm.name} is off by {arm.error:.1e} of the largest value"


def _print(result: BenchResult) -> None:
    screen = console(sys.stdout)
    if screen.is_terminal:
        screen.print(Harmless(Group(*_page(result, wide=screen.width >= _WIDE))))
    else:
        print(plain_text(Harmless(Group(*_page(result, wide=True))), _WIDTH, encoding_of(sys.stdout)))


def _page(result: BenchResult, *, wide: bool) -> Iterator[RenderableType]:
    yield Text.assemble((result.model, "bold"), (f"  {', '.join(result.inputs)}", "dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    shown = [True, wide, True, wide, True, True, True]  # in _row's order
    titles = ("median", "fastest – slowest", "of eager", "ready in", "kept for backward", "of eager", "off by")
    for title in compress(titles, shown):
        table.add_column(title, justify="right", no_wrap=True)
    for arm in result.arms:
        table.add_row(arm.name, *compress(_row(result, arm), shown))
    yield table
    for arm in result.arms:
        if arm.failed is not None:
            yield Text(f"{arm.name} was not run: {arm.failed}", style="yellow")
    rounds = max(len(arm.seconds) for arm in result.arms)
    yield Text(
        f"{rounds} rounds of {result.calls} calls, in turns; of eager: the median of the rounds' ratios."
        " off by: of the largest value of an output.",
        style="dim",
    )
    yield Text("  ".join(f"{name} {value}" for name, value in result.environment.items()), style="dim")


def _row(result: BenchResult, arm: ArmResult) -> Iterator[RenderableType]:
    eager = result.arms[0].saved_bytes
    ratio = result.ratio(arm)
    yield "–" if arm.median is None else fmt.seconds(arm.median)
    yield "–" if arm.spread is None else " – ".join(map(fmt.seconds, arm.spread))
    yield Text("–" if ratio is None else f"{ratio:.2f}×", style="" if ratio is None else _colour(ratio))
    yield fmt.seconds(arm.prepare_seconds) if arm.seconds else "–"
    yield "–" if arm.saved_bytes is None else fmt.bytes_(arm.saved_bytes)
    yield fmt.factor(arm.saved_bytes, eager or 0)
    yield "–" if arm.error is None else f"{arm.error:.1e}"


def _colour(ratio: float) -> str:
    return "green" if ratio < 0.95 else "red" if ratio > 1.05 else ""
