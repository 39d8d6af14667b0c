"""Splits a rolled model in three: what comes before the loop, one step of it, what comes after.

A value that differs from call to call is made once, before the loop, and goes into every step; what is the same in
every call, tables made of weights alone, is made where it is read: ONNX Runtime folds it when it loads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from laser_fx.export.least_fidelity import least_fidelity
from laser_fx.export.opened import Opened, made_name, open_loop, reads, stepped_loop
from laser_fx.export.step_plan import ByStep, Kept, State
from laser_fx.export.stitch import SIZES
from laser_fx.export.writer import Writer

__all__ = ["Split", "split_at_loop", "whole_as_step"]

_WORD = re.compile(r"\b[A-Za-z_]\w*\b")


@dataclass(frozen=True)
class Split:
    """The parts of a model, and what they hand to each other by name.

    Args:
        start: ``None`` where nothing is to be made before the first step.
        step: one step.
        finish: ``None`` where the step itself gives the answers.
        states, by_step, kept, position, min_fidelity, halted: see `laser_fx.export.step_plan.StepPlan`.
        batched, unbatched: the same.
    """

    start: ir.Graph | None
    step: ir.Graph
    finish: ir.Graph | None
    states: tuple[State, ...]
    by_step: tuple[ByStep, ...]
    kept: tuple[Kept, ...]
    position: str | None
    batched: tuple[str, ...]
    unbatched: tuple[str, ...]
    min_fidelity: str | None
    halted: str | None


def split_at_loop(
    graph: ir.Graph,
    loop: str,
    records: tuple[str, ...],
    done: ir.Value | None = None,
    *,
    keep_records: bool = True,
) -> Split:
    """Cut a graph before and after an outermost loop. The graph is used up.

    Args:
        graph: the main graph of a rolled model.
        loop: name of the loop; others run as a whole, before it or after it.
        records: names of its outputs that are statistics.
        done: a value in the body of the loop that says which examples are done.
        keep_records: whether the step returns the statistics, and not only the least fidelity among them.

    Raises:
        ExportError: other loops have statistics too.
    """
    user = list(graph.inputs)
    opened = open_loop(graph, stepped_loop(graph, loop), records)
    before = set(graph)
    least = least_fidelity(Writer(graph, graph, f"{opened.name}/"), opened.records.values())
    opened.nodes += [node for node in graph if node not in before]
    if done is not None:
        done.name = f"{opened.name}/halted"
    if not keep_records:
        opened.records.clear()
    return _Cutter(graph, user, opened).split(least, done)


def whole_as_step(graph: ir.Graph, states: Mapping[str, str], records: tuple[str, ...]) -> Split:
    """A model whose call is one step: what it takes and what it gives are the step's.

    Args:
        graph: its main graph.
        states: graph output by the name of the graph input that takes it at the next step.
        records: names of its outputs that are statistics.
    """
    answers = tuple(Kept(name, name, -1) for name in map(made_name, graph.outputs))
    known = [value for value in graph.outputs if value.name in records]
    least = least_fidelity(Writer(graph, graph, "step/"), known)
    if least is not None:
        graph.outputs.append(least)
    carried = tuple(State(name, following, name) for name, following in states.items())
    values = [*graph.inputs, *graph.outputs]
    sizes = {made_name(v): [str(size) for size in v.shape] for v in values if v.shape is not None}
    batched = tuple(name for name, shape in sizes.items() if shape and shape[0] == "batch")
    open_sizes = re.compile(r"batch|None")
    unbatched = tuple(name for name, shape in sizes.items() if not any(open_sizes.search(size) for size in shape))
    return Split(None, graph, None, carried, (), answers, None, batched, unbatched, _name(least), None)


class _Cutter:
    def __init__(self, graph: ir.Graph, user: list[ir.Value], opened: Opened) -> None:
        self._graph, self._user, self._opened = graph, user, opened
        self._inside = [*opened.states, *(row for row, _ in opened.by_step)]
        self._inside += [] if opened.position is None else [opened.position]
        rows = [row.value for row in opened.rows]
        self._after = [*opened.states, *rows]
        body = set(opened.nodes)
        late = _reached(graph, self._after) - body
        varying = _reached(graph, user) - body - late
        constant = set(graph) - varying - late - body
        self._in_start, self._in_step, self._in_finish = varying | constant, body | constant, late | constant
        self._copy_constant_states()

    def split(self, least: ir.Value | None, done: ir.Value | None) -> Split:
        opened = self._opened
        for name, value in opened.records.items():
            value.name = name
        made = [*opened.following, *(row.result for row in opened.rows), *opened.records.values()]
        made += [value for value in (least, done) if value is not None]
        results = list(dict.fromkeys(made))
        answers = [value for value in self._graph.outputs if value.producer() in self._in_finish]
        into_step = self._frontier(results, self._in_step, self._inside)
        into_finish = self._frontier(answers, self._in_finish, self._after)
        handed_on = [*opened.first, *(rows for _, rows in opened.by_step), *into_step, *into_finish]
        handed_on += [value for value in self._graph.outputs if value not in answers]
        own = {*self._user, *self._inside, *self._after}
        made_first = [value for value in dict.fromkeys(handed_on) if value not in own]
        into_start = self._frontier(made_first, self._in_start, [])
        self._describe([*into_step, *into_finish, *made_first, *results])
        return Split(
            self._part("start", into_start, made_first) if made_first else None,
            self._part(opened.name, into_step, results),
            self._part("finish", into_finish, answers) if answers else None,
            tuple(
                State(made_name(value), made_name(following), made_name(first))
                for value, following, first in zip(opened.states, opened.following, opened.first, strict=True)
            ),
            tuple(ByStep(made_name(row), made_name(rows)) for row, rows in opened.by_step),
            tuple(Kept(made_name(row.value), made_name(row.result), row.index) for row in opened.rows),
            None if opened.position is None else made_name(opened.position),
            *self._by_batch([*self._user, *into_step, *into_finish, *results]),
            _name(least),
            _name(done),
        )

    def _copy_constant_states(self) -> None:
        """A state that begins as a constant is made by a node, as the outputs of a graph are."""
        for position, value in enumerate(self._opened.first):
            if value.is_initializer() and value not in self._user:
                copy = ir.node("Identity", [value], name=f"{self._opened.states[position].name}.first")
                copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = copy.name, value.type, value.shape
                copy.outputs[0].meta.update(value.meta)
                self._graph.append(copy)
                self._in_start.add(copy)
                self._opened.first[position] = copy.outputs[0]

    def _frontier(self, results: list[ir.Value], allowed: set[ir.Node], stop: list[ir.Value]) -> list[ir.Value]:
        """What a part has to be given, so that its nodes make some results: in the order of the graph's inputs."""
        found: dict[ir.Value, None] = {}
        pending, seen = list(results), set[ir.Value]()
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            node = value.producer()
            if value in stop or value in self._user or (node is not None and node not in allowed):
                found[value] = None
            elif node is not None:
                pending += reads(node)
        order = {value: position for position, value in enumerate(self._graph.inputs)}
        return sorted(found, key=lambda value: (order.get(value, len(order)), made_name(value)))

    def _part(self, name: str, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Graph:
        part = ir.convenience.extract(self._graph, inputs, outputs)
        part.name = name
        for value in part.inputs:  # the host gives every one of them: none has a default
            part.initializers.pop(str(value.name), None)
            value.const_value = None
        stored = sorted(part.initializers.items())
        part.initializers.clear()
        part.initializers.update(stored)
        return part

    def _describe(self, values: list[ir.Value]) -> None:
        """Sizes as the program has them, open ones by their names."""
        for value in values:
            sizes = self._sizes(value)
            if sizes is not None and (value.shape is None or len(value.shape) == len(sizes)):
                value.shape = ir.Shape([int(size) if size.isdecimal() else self._renamed(size) for size in sizes])

    def _renamed(self, size: str) -> str:
        names = self._size_names()
        return _WORD.sub(lambda found: names.get(found.group(), found.group()), size)

    def _size_names(self) -> dict[str, str]:
        """What the caller's inputs call the sizes that they leave open, by the program's symbols."""
        shaped = [value for value in self._user if value.shape is not None and SIZES in value.meta]
        pairs = [pair for value in shaped for pair in zip(value.meta[SIZES], value.shape or (), strict=True)]
        return {symbol: str(name) for symbol, name in pairs if _WORD.fullmatch(symbol)}

    def _by_batch(self, values: Iterable[ir.Value]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of values that have the batch in front, and of those that have nothing to do with it."""
        batch = self._batch()
        if batch is None:  # nothing tells it from other sizes
            return (), ()
        known = {made_name(value): sizes for value in values if (sizes := self._sizes(value)) is not None}
        leading = [name for name, sizes in known.items() if sizes and sizes[0] == batch]
        without = [n for n, sizes in known.items() if not any(re.search(rf"\b{batch}\b", size) for size in sizes)]
        return tuple(leading), tuple(without)

    def _batch(self) -> str | None:
        """The symbol that the caller's inputs have in front, where the program calls it the batch."""
        for value in self._user:
            if value.shape is not None and len(value.shape) and str(value.shape[0]) == "batch":
                return str(value.meta[SIZES][0])
        return None

    def _sizes(self, value: ir.Value) -> tuple[str, ...] | None:
        """Sizes of a value; those of the body count where its symbols are those of the whole program."""
        opened = self._opened
        if value in opened.states:
            position = opened.states.index(value)
            first, inner = opened.first[position].meta.get(SIZES), value.meta.get(SIZES)
            return tuple(inner) if first == inner and inner is not None else None
        node = value.producer()
        inside = (node is not None and node in self._in_step and node not in self._in_start) or value in self._inside
        if inside and any(self._sizes(state) is None for state in opened.states):
            return None
        sizes = value.meta.get(SIZES)
        return None if sizes is None else tuple(sizes)


def _name(value: ir.Value | None) -> str | None:
    return None if value is None else made_name(value)


def _reached(graph: ir.Graph, values: Iterable[ir.Value]) -> set[ir.Node]:
    """Nodes that read any of these values, or what such a node makes."""
    known, found = set(values), set[ir.Node]()
    for node in graph:
        if any(value in known for value in reads(node)):
            found.add(node)
            known.update(node.outputs)
    return found
