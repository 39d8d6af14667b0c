"""Draws the pictures of docs/detection.md from what detection sees of the model on that page.

`python docs/theme/pictures.py` writes docs/pictures/, for the last one with Graphviz; a test compares. Grey and
mid-tones, so that they can be read on light and dark pages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import torch

import laser_fx
from laser_fx.call import flatten_call
from laser_fx.capture import capture
from laser_fx.passes.collapse import FoundLoop, Run, collapse
from laser_fx.passes.normalise import Block, Item, View, normalise
from laser_fx.passes.pipeline import _identities
from laser_fx.passes.runs import Search

DOCS = Path(__file__).parents[1]
WIDTH, HEIGHT, GAP = 860, 30, 2
TEXT = 'fill="#868e96" font-family="system-ui, sans-serif" font-size="13"'


def view_of(model: torch.nn.Module, *inputs: torch.Tensor) -> View:
    """What detection sees of an evaluation."""
    captured = capture(model.eval(), flatten_call(inputs, {}), grad_enabled=False)
    parameters = frozenset(captured.states)
    return normalise(captured.graph_module.graph, _identities(model, captured), parameters, False)


def levels(view: View) -> Iterator[tuple[str, Block, list[Run]]]:
    """Each block that is searched, with the runs found in it, from the whole trace inward."""

    def search(block: Block, name: str) -> Iterator[tuple[str, Block, list[Run]]]:
        runs = Search(block, view.weights).runs(3)
        yield name, block, runs
        if runs:
            collapsed = collapse(block, runs, view.intern, lambda body: body)
            loops: list[FoundLoop] = [item.loop for item in collapsed.items if item.loop is not None]
            for number, loop in enumerate(loops):
                yield from search(loop.body, f"{name}_{number}")

    return search(view.block, "loop")


def picture(name: str, block: Block, runs: Sequence[Run], colours: dict[int, str]) -> str:
    """A strip of operators, a cell each, with a bracket under every step of every loop."""
    width = min((WIDTH - GAP) / len(block.items) - GAP, 130)
    body = [cell(item, at * (width + GAP), width, colours[item.token]) for at, item in enumerate(block.items)]
    body += [bracket(f"{name}_{number}", run, width + GAP) for number, run in enumerate(runs)]
    height = HEIGHT + (46 if runs else 6)
    shape = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    label = f"{len(block.items)} operators" + "".join(f", {r.trips} times {r.period} of them repeat" for r in runs)
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {shape} role="img">', f"<title>{label}</title>", *body, "</svg>\n"]
    )


def cell(item: Item, left: float, width: float, colour: str) -> str:
    """One operator; its name stands in it where there is room, else in its tooltip."""
    what = escape(operator(item))
    box = f'<rect x="{left:.1f}" y="3" width="{width:.1f}" height="{HEIGHT}" rx="3" fill="{colour}"/>'
    middle = f'x="{left + width / 2:.1f}" y="{HEIGHT / 2 + 7.5:.1f}" text-anchor="middle"'
    style = 'fill="#fff" font-family="system-ui, sans-serif" font-size="13"'
    fits = next((text for text in (what, what.rpartition(" ")[2]) if width > 8 * len(text)), None)
    name = f"<text {middle} {style}>{fits}</text>" if fits else ""
    return f"<g><title>{what}</title>{box}{name}</g>"


def bracket(name: str, run: Run, pitch: float) -> str:
    """A line under every step, and what the loop is called."""
    y, lines = HEIGHT + 10, []
    for trip in range(run.trips):
        left, right = ((run.start + run.period * step) * pitch for step in (trip, trip + 1))
        end = f'd="M{left + 2:.1f} {y}v5H{right - GAP - 2:.1f}v-5"'
        lines.append(f'<path {end} fill="none" stroke="#868e96" stroke-width="1.5"/>')
    middle = (run.start + run.period * run.trips / 2) * pitch
    told = f"{name}: {run.trips} steps of {run.period}"
    return "".join(lines) + f'<text x="{middle:.1f}" y="{y + 24}" text-anchor="middle" {TEXT}>{told}</text>'


def operator(item: Item) -> str:
    """Its name without namespace and overload; of a linear also whose weight it reads."""
    assert item.node is not None
    name = str(item.node.target).split(".")[1]
    read = [arg.name for arg in item.node.all_input_nodes if arg.name.endswith("_weight")]
    return " ".join([name, *(weight.removesuffix("_weight").split("_")[-1] for weight in read)])


def colours_of(block: Block) -> dict[int, str]:
    """A hue for each token, far from those before it."""
    tokens = dict.fromkeys(item.token for item in block.items)
    return {token: f"hsl({(200 + 137.5 * at) % 360:.0f} 45% 48%)" for at, token in enumerate(tokens)}


def model_on(page: Path) -> Any:
    """The model and input that the page writes into its first file."""
    found = re.search(r"^```python \S+\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    assert found is not None
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(found[1], namespace)
    return namespace["make"]()


def draw(out: Path) -> list[Path]:
    """Write every picture into a folder."""
    model, inputs = model_on(DOCS / "detection.md")
    view = view_of(model, *inputs)
    colours, written = colours_of(view.block), []
    for name, block, runs in levels(view):
        written.append(out / f"{name.replace('loop', 'trace')}.svg")
        written[-1].write_text(picture(name, block, runs, colours), encoding="utf-8")
    return written


def draw_nest(out: Path) -> Path:
    """Write the nest as Graphviz draws it."""
    model, inputs = model_on(DOCS / "detection.md")
    return laser_fx.inspect(model, inputs).to_svg(out, overwrite=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "pictures"
    folder.mkdir(exist_ok=True)
    print(*draw(folder), draw_nest(folder / "nest.svg"), sep="\n")
