"""Graphs as Python to read: loops with their bodies, and a comment on what each node belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent
from typing import Any

from torch import fx

from laser_fx.marks import MARK, printable
from laser_fx.nodes import LOOP_SOURCE
from laser_fx.rolled import RolledLoop

__all__ = ["ReadableModule", "readable"]


class ReadableModule(fx.GraphModule):
    """A graph of laser-fx: its ``print_readable`` shows the bodies of loops, and the loop and site of every node."""

    def print_readable(
        self,
        print_output: bool = True,
        include_stride: bool = False,
        include_device: bool = False,
        colored: bool = False,
        **others: Any,
    ) -> str:
        """As `torch.fx.GraphModule.print_readable`, the bodies of loops and segments included."""
        how = {"include_stride": include_stride, "include_device": include_device, "colored": colored}
        text = readable(self, **how, **others)
        if print_output:
            print(text)
        return text


def readable(graph_module: fx.GraphModule, **how: Any) -> str:
    """A graph as Python, with the loop, the site and the line of the model's code in comments.

    Args:
        graph_module: any graph; marks are in those that laser-fx made.
        how: what `torch.fx.GraphModule.print_readable` takes.

    >>> import torch
    >>> from torch import nn
    >>> from laser_fx import Options, compile
    >>> class Looped(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up = nn.Linear(8, 8)
    ...     def forward(self, z):
    ...         for _ in range(5):
    ...             z = torch.tanh(self.up(z))
    ...         return z
    >>> compiled = compile(Looped().eval(), (torch.ones(4, 8),), options=Options.exact())
    >>> text = readable(compiled.graph_module)
    >>> "# loop_0 runs 5 times" in text, "site loop_0:up, by reroll" in text
    (True, True)
    """
    shown = [MARK, *(how.pop("additional_meta", None) or ())]
    # torch's own prints children that are graphs; a loop is none, its body is.
    text = fx.GraphModule.print_readable(graph_module, False, additional_meta=shown, **how)
    inner = [
        f"{comment}\n{readable(module, additional_meta=list(shown[1:]), **how)}"
        for comment, module in _inner(graph_module)
    ]
    return "\n".join([text.rstrip(), *(indent(part, "    ").rstrip() for part in inner)]) + "\n"


def _inner(graph_module: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    """Graphs that the nodes of a graph run, each with what there is to say of it."""
    for node in graph_module.graph.find_nodes(op="call_module"):
        child = graph_module.get_submodule(str(node.target))
        if isinstance(child, RolledLoop):
            yield _described(child, node), child.body
        elif not isinstance(child, fx.GraphModule):
            for name, module in child.named_children():
                if isinstance(module, fx.GraphModule):
                    yield printable(f"# {node.target}.{name}"), module


def _described(loop: RolledLoop, call: fx.Node) -> str:
    source = call.meta.get(LOOP_SOURCE)
    return printable(f"# {loop.name} runs {loop.trip_count} times" + (f" — {source}" if source else ""))
