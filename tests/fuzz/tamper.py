"""Defects to put into a rolled graph: the certificate must see each that matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import fx

from laser_fx.rolled import RolledLoop

__all__ = ["tamper"]

aten = torch.ops.aten
Defect = tuple[str, Callable[[], None]]


def tamper(rolled: fx.GraphModule, level: int, choice: int) -> str | None:
    """Put one defect into a graph, in place.

    Args:
        rolled: a copy of a rolled graph.
        level: which of its graphs, modulo how many it has: the top level, then bodies.
        choice: which defect, modulo how many are possible there.

    Returns:
        What was done; None where nothing can be.
    """
    levels = [module for module in rolled.modules() if isinstance(module, fx.GraphModule)]
    chosen = levels[level % len(levels)]
    defects = list(_defects(chosen))
    if not defects:
        return None
    what, put = defects[choice % len(defects)]
    put()
    chosen.graph.lint()
    chosen.recompile()
    return what


def _defects(level: fx.GraphModule) -> Iterator[Defect]:
    for node in level.graph.nodes:
        if node.op == "call_function":
            yield from _of_operator(node)
        elif node.op == "call_module":
            yield from _of_loop(node, level.get_submodule(str(node.target)))
        elif node.op == "output":
            yield from _swaps(node, node.args[0], lambda node, order: _set(node, 0, order))


def _swaps(node: fx.Node, given: tuple[Any, ...], put: Callable[[fx.Node, tuple[Any, ...]], None]) -> Iterator[Defect]:
    for place in range(len(given) - 1):
        order = (*given[:place], given[place + 1], given[place], *given[place + 2 :])
        yield f"{node.name}: values {place} and {place + 1} swapped", partial(put, node, order)


def _of_operator(node: fx.Node) -> Iterator[Defect]:
    first, second = (*node.args, None, None)[:2]
    if node.target is torch._C._set_grad_enabled:
        yield f"{node.name}: another grad mode", partial(_set, node, 0, not first)
        return
    if isinstance(first, fx.Node) and isinstance(second, fx.Node) and node.target is not aten.linear.default:
        yield f"{node.name}: arguments swapped", lambda: _set_all(node, (second, first, *node.args[2:]))
    if isinstance(second, float):
        yield f"{node.name}: another constant", lambda: _set(node, 1, second * 2)
    if isinstance(second, int) and node.target is not aten.split.Tensor:
        yield f"{node.name}: another index", lambda: _set(node, 1, second - 1)
    if node.target in (aten.tanh.default, aten.sin.default):
        yield f"{node.name}: another operator", lambda: setattr(node, "target", aten.cos.default)


def _of_loop(node: fx.Node, loop: Any) -> Iterator[Defect]:
    if not isinstance(loop, RolledLoop):
        return
    for change in (1, -1):
        yield f"{node.name}: trip count {change:+}", partial(setattr, loop, "trip_count", loop.trip_count + change)
    yield from _swaps(node, node.args, _set_all)


def _set(node: fx.Node, place: int, value: Any) -> None:
    node.args = (*node.args[:place], value, *node.args[place + 1 :])


def _set_all(node: fx.Node, args: tuple[Any, ...]) -> None:
    node.args = args
