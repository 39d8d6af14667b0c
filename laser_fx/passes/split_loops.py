"""Splits outermost loops into pieces that run one after the other, so that steps can differ without a branch.

``loop_0`` of eight steps, split at 6, becomes ``loop_0`` of six and ``loop_0_from_6`` of two: the second starts with
the carry that the first ends with, and takes the steps' values from the sixth on. A loop can be split where its step
outputs are read step by step, or stacked; where a whole list of them is handed on there is no place for two, and the
loop is refused. The bodies are copied node by node, so the pieces compute what the whole did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from laser_fx.errors import PassError
from laser_fx.loops import Loop, LoopNest
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.infra import PassResult, finish, getitem, rolled_loop
from laser_fx.rolled import RolledLoop

__all__ = ["Piece", "SplitLoops", "split_loops"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Piece:
    """A part of an outermost loop: the steps from ``start`` to before ``stop`` of what was ``loop``."""

    loop: str
    start: int
    stop: int


@dataclass(frozen=True)
class SplitLoops(PassResult):
    """A graph with its loops split.

    Args:
        nest: the loops as they are now.
        pieces: name of a loop, or of one inside it → the loop that it had been, and the steps of the outermost one.
    """

    nest: LoopNest = field(default_factory=LoopNest)
    pieces: Mapping[str, Piece] = field(default_factory=dict)


def split_loops(rolled: fx.GraphModule, nest: LoopNest, starts: Mapping[str, Sequence[int]]) -> SplitLoops:
    """Split outermost loops; the given graph stays as it is.

    Args:
        rolled: an exact rolled graph.
        nest: its loops.
        starts: outermost loop → first steps of its pieces, ascending from 0.

    Raises:
        PassError: a loop hands on a whole list of its step outputs.
    """
    top = _Top(rolled, starts)
    graph_module = top.run()
    loops = tuple(piece for loop in nest.loops for piece in _described(loop, starts.get(loop.name, (0,))))
    pieces = {
        new.name: Piece(old.name, start, stop)
        for loop in nest.loops
        for start, stop in _ranges(starts.get(loop.name, (0,)), loop.trip_count)
        for old, new in zip(loop.walk(), _renamed_loop(loop, loop.name, start).walk(), strict=True)
    }
    notes = tuple(f"{name} is split at steps {', '.join(map(str, first[1:]))}" for name, first in starts.items())
    return SplitLoops(graph_module, notes, LoopNest(loops), pieces)


def _ranges(starts: Sequence[int], trips: int) -> Iterator[tuple[int, int]]:
    return zip(starts, (*starts[1:], trips), strict=True)


def _described(loop: Loop, starts: Sequence[int]) -> Iterator[Loop]:
    for start, stop in _ranges(starts, loop.trip_count):
        yield replace(_renamed_loop(loop, loop.name, start), trip_count=stop - start)


def _renamed_loop(loop: Loop, outermost: str, start: int) -> Loop:
    children = tuple(_renamed_loop(child, outermost, start) for child in loop.children)
    return replace(loop, name=_name(loop.name, outermost, start), children=children)


def _name(name: str, outermost: str, start: int) -> str:
    """``loop_0_1`` inside of ``loop_0`` from step 6 on: ``loop_0_from_6_1``."""
    return f"{outermost}_from_{start}{name.removeprefix(outermost)}" if start else name


class _Top:
    """See `split_loops`."""

    def __init__(self, source: fx.GraphModule, starts: Mapping[str, Sequence[int]]) -> None:
        self.source, self.starts = source, starts
        self.root, self.graph = nn.Module(), fx.Graph()
        self.env: dict[fx.Node, Any] = {}

    def run(self) -> fx.GraphModule:
        for node in self.source.graph.nodes:
            loop = rolled_loop(self.source, node)
            if loop is not None:
                self._loop(node, loop)
            elif node not in self.env:
                self.env[node] = self.graph.node_copy(node, lambda n: self.env[n])
        return finish(self.root, self.graph, "Split")

    def _loop(self, node: fx.Node, loop: RolledLoop) -> None:
        starts = self.starts.get(loop.name, (0,))
        arguments = [self.env[a] if isinstance(a, fx.Node) else a for a in node.args]
        if len(starts) == 1:
            self.root.add_module(str(node.target), loop)
            self.env[node] = self.graph.node_copy(node, lambda n: self.env[n])
            return
        carry: list[Any] = arguments[: loop.carry_count]
        calls: list[tuple[int, int, fx.Node]] = []
        for start, stop in _ranges(starts, loop.trip_count):
            call = self._piece(node, loop, carry, arguments, start, stop)
            carry = [self._result(call, index) for index in range(loop.carry_count)]
            calls.append((start, stop, call))
        self._hand_on(node, loop, carry, calls)

    def _piece(
        self, node: fx.Node, loop: RolledLoop, carry: list[Any], arguments: list[Any], start: int, stop: int
    ) -> fx.Node:
        first_stacked = loop.varying_arguments - loop.stacked_count
        streams = arguments[loop.carry_count : first_stacked]
        own = [v for at in range(loop.per_step_count) for v in streams[at * loop.trip_count :][start:stop]]
        rows = [self._slice(whole, start, stop) for whole in arguments[first_stacked : loop.varying_arguments]]
        name = _name(loop.name, loop.name, start)
        body = _renamed_body(loop.body, loop.name, start)
        self.root.add_module(name, loop.changed(name=name, body=body, trip_count=stop - start))
        call = self.graph.call_module(name, (*carry, *own, *rows, *arguments[loop.varying_arguments :]))
        lists = len(node.meta["val"]) - loop.stacked_outputs
        values = [
            value if at < loop.carry_count else value[start:stop] for at, value in enumerate(node.meta["val"][:lists])
        ]
        stacked = [_rows(whole, start, stop) for whole in node.meta["val"][lists:]]
        call.meta = {**node.meta, "val": (*values, *stacked)}
        return call

    def _hand_on(
        self, node: fx.Node, loop: RolledLoop, carry: list[Any], calls: list[tuple[int, int, fx.Node]]
    ) -> None:
        """Put what the pieces return in the place of what the loop returned."""
        lists = len(node.meta["val"]) - loop.stacked_outputs
        for user in list(node.users):
            index = int(user.args[1])  # type: ignore[arg-type]
            if index < loop.carry_count:
                self.env[user] = carry[index]
            elif index >= lists:
                parts = [self._result(call, index) for _, _, call in calls]
                self.env[user] = self.graph.call_function(aten.cat.default, (parts,))
                self.env[user].meta = dict(user.meta)
            else:
                self._steps(user, index, loop, calls)

    def _steps(self, whole: fx.Node, index: int, loop: RolledLoop, calls: list[tuple[int, int, fx.Node]]) -> None:
        self.env[whole] = None
        for user in whole.users:
            if user.target is not getitem:
                raise PassError(
                    f"all steps of an output of {loop.name} are handed on as one list",
                    where=whole.name,
                    fix="leave out rank_schedule, or stack the outputs with laser_fx.loop(collect=True)",
                )
            step = int(user.args[1]) % loop.trip_count  # type: ignore[arg-type]
            start, _, call = next(found for found in calls if found[0] <= step < found[1])
            taken = self._result(call, index)
            self.env[user] = self.graph.call_function(getitem, (taken, step - start))
            self.env[user].meta = dict(user.meta)

    def _result(self, call: fx.Node, index: int) -> fx.Node:
        node = self.graph.call_function(getitem, (call, index))
        node.meta = {"val": call.meta["val"][index], GRAD_ENABLED: call.meta.get(GRAD_ENABLED)}
        return node

    def _slice(self, whole: fx.Node, start: int, stop: int) -> fx.Node:
        node = self.graph.call_function(aten.slice.Tensor, (whole, 0, start, stop))
        node.meta = {"val": _rows(whole.meta["val"], start, stop), GRAD_ENABLED: whole.meta.get(GRAD_ENABLED)}
        return node


def _rows(whole: Any, start: int, stop: int) -> Tensor:
    """Rows of a fake tensor."""
    with whole.fake_mode:
        rows: Tensor = whole[start:stop]
        return rows


def _renamed_body(body: fx.GraphModule, outermost: str, start: int) -> fx.GraphModule:
    """A copy whose loops bear the names of the piece."""
    root, graph, env = nn.Module(), fx.Graph(), dict[fx.Node, fx.Node]()
    for node in body.graph.nodes:
        env[node] = graph.node_copy(node, env.__getitem__)
        loop = rolled_loop(body, node)
        if loop is not None:
            name = _name(loop.name, outermost, start)
            env[node].target = name
            root.add_module(name, loop.changed(name=name, body=_renamed_body(loop.body, outermost, start)))
    return finish(root, graph, _name("body", "body", start))
