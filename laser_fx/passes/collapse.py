"""Replaces the runs that `detect` found by single items, each of which stands for a loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from laser_fx.passes.keys import Interner
from laser_fx.passes.normalise import Block, Item, Ref, Slot

__all__ = ["FoundLoop", "Run", "collapse"]


@dataclass(frozen=True)
class FoundLoop:
    """A loop as detection sees it.

    Args:
        trip_count: how often the body runs.
        carry: how many of the body's first inputs and outputs are carried.
        per_step: how many of its next inputs differ by step; the loop's item has ``trip_count`` arguments for each.
        body: one step. Outputs: the next carry, then every value that anything outside reads.
        nodes: the captured nodes of the first two steps, for source lines.
    """

    trip_count: int
    carry: int
    per_step: int
    body: Block
    nodes: tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]


@dataclass(frozen=True)
class Run:
    """``trips`` repetitions of ``period`` items from ``start`` on."""

    start: int
    period: int
    trips: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.trips


def collapse(block: Block, runs: Sequence[Run], intern: Interner, search: Callable[[Block], Block]) -> Block:
    """The block with one item in the place of each run.

    Args:
        block: any block; it stays as it is.
        runs: verified runs of it that do not overlap, in order.
        intern: gives tokens: loops that compute the same function of their arguments get equal ones.
        search: finds the loops inside a body.
    """
    return _Collapser(block, runs, intern, search).run()


class _Collapser:
    """Replaces runs by loop items."""

    def __init__(self, block: Block, runs: Sequence[Run], intern: Interner, search: Callable[[Block], Block]) -> None:
        self.block, self.runs, self.intern, self.search = block, runs, intern, search
        self.slots = _slots_by_item(block)
        self.items: list[Item] = []
        self.moved: dict[Ref, Ref] = {}
        self.origin = {ref: block.origin[ref] for index in self.slots if index < 0 for ref in self.slots[index]}

    def run(self) -> Block:
        kinds = self._kinds()
        starts = {run.start: number for number, run in enumerate(self.runs)}
        index = 0
        while index < len(self.block.items):
            if index in starts:
                self._collapse(*kinds[starts[index]])
                index = self.runs[starts[index]].stop
            else:
                self._keep(index)
                index += 1
        outputs = [self._map(o) if isinstance(o, tuple) else o for o in self.block.outputs]
        return Block(self.items, self.block.inputs, outputs, self.origin)

    def _kinds(self) -> list[tuple[_Step, _Kind]]:
        """Each run's step, and what it shares with all runs that compute the same function of their arguments."""
        readers = self._outside_reads()
        steps = [_Step(self.block, run, self.slots, readers.get(n, [])) for n, run in enumerate(self.runs)]
        equal: dict[Hashable, list[_Step]] = defaultdict(list)
        for step in steps:
            equal[step.signature].append(step)
        kinds = {signature: self._kind(signature, together) for signature, together in equal.items()}
        return [(step, kinds[step.signature]) for step in steps]

    def _kind(self, signature: Hashable, steps: Sequence[_Step]) -> _Kind:
        # Two inputs are one only if they are one in every equal loop: a state may start as what is fed in at each step.
        numbers: dict[Hashable, int] = {}
        merged = [
            numbers.setdefault(same, read) for read, same in enumerate(zip(*(s.inputs() for s in steps), strict=True))
        ]
        inputs = _Inputs.of(steps[0], merged)
        results = dict.fromkeys(ref for s in steps for ref, trip in s.results() if not inputs.is_final(ref, trip))
        token = self.intern(("loop", signature, tuple(merged), tuple(results)))
        made = {place: node for step in reversed(steps) for place, node in step.made()}
        body = steps[0].body(inputs, [*inputs.next_carry, *results], made)
        return _Kind(token, inputs, tuple(results), self.search(body))

    def _outside_reads(self) -> dict[int, list[Ref]]:
        """Run number → the values of the run that are read outside of it, in order."""
        owner = {i: number for number, run in enumerate(self.runs) for i in range(run.start, run.stop)}
        reads: dict[int, dict[Ref, None]] = defaultdict(dict)
        for index, item in enumerate(self.block.items):
            for ref in item.args:
                if ref[0] in owner and owner.get(index) != owner[ref[0]]:
                    reads[owner[ref[0]]][ref] = None
        for output in self.block.outputs:
            if isinstance(output, tuple) and output[0] in owner:
                reads[owner[output[0]]][output] = None
        return {number: sorted(refs, key=lambda r: (r[0], str(r[1]))) for number, refs in reads.items()}

    def _map(self, ref: Ref) -> Ref:
        return self.moved.get(ref, ref)

    def _keep(self, index: int) -> None:
        item, place = self.block.items[index], len(self.items)
        args = tuple(map(self._map, item.args))
        self.items.append(item if args == item.args else replace(item, args=args))
        for ref in self.slots[index]:
            self._move(ref, (place, ref[1]))

    def _move(self, old: Ref, new: Ref) -> None:
        self.moved[old] = new
        self.origin[new] = self.block.origin[old]

    def _collapse(self, step: _Step, kind: _Kind) -> None:
        place, inputs = len(self.items), kind.inputs
        args = tuple(self._map(ref) for ref in step.arguments(inputs))
        for ref in step.readers:
            self._move(ref, (place, kind.slot(*step.local(ref))))
        loop = FoundLoop(step.trips, len(inputs.carry), len(inputs.per_step), kind.body, step.nodes())
        self.items.append(Item(kind.token, args, None, True, loop))


@dataclass(frozen=True)
class _Inputs:
    """What a body takes, as numbers of its step's reads.

    Args:
        merged: for each read the first one that is the same input.
        next_carry: for each carried input the place in the body of the value that is carried.
    """

    merged: Sequence[int]
    carry: Sequence[int]
    per_step: Sequence[int]
    invariants: Sequence[int]
    next_carry: Sequence[Ref]

    @classmethod
    def of(cls, step: _Step, merged: Sequence[int]) -> _Inputs:
        by_role: dict[str, list[int]] = {"carry": [], "per step": [], "invariant": []}
        for read in dict.fromkeys(merged):
            by_role[step.roles[read][0]].append(read)
        following = [step.local(step.reads[read][1])[0] for read in by_role["carry"]]
        return cls(merged, by_role["carry"], by_role["per step"], by_role["invariant"], following)

    def is_final(self, local: Ref, trip: int) -> bool:
        """Whether a value of a step is what the loop ends with."""
        return trip == -1 and local in self.next_carry

    def all(self) -> list[int]:
        """In the order in which the body takes them."""
        return [*self.carry, *self.per_step, *self.invariants]


@dataclass(frozen=True)
class _Kind:
    """What equal loops share: they number inputs and results alike, so that the loops around them can be equal too."""

    token: int
    inputs: _Inputs
    results: tuple[Ref, ...]
    body: Block

    def slot(self, local: Ref, trip: int) -> Slot:
        """Final carry k: ``("carry", k)``. Result j of any step t: ``("step", j, t − trip_count)``."""
        if self.inputs.is_final(local, trip):
            return ("carry", self.inputs.next_carry.index(local))
        return ("step", self.results.index(local), trip)


class _Step:
    """One step of a run: what each argument of its items is.

    A *read* is an argument of the first step that comes from outside of it; ``reads`` has what stands there in every
    step, ``roles`` whether it is carried, per step or invariant.
    """

    def __init__(self, block: Block, run: Run, slots: Mapping[int, list[Ref]], readers: Sequence[Ref]) -> None:
        self.block, self.slots, self.readers = block, slots, readers
        self.start, self.period, self.trips = run.start, run.period, run.trips
        self.reads: list[tuple[Ref, ...]] = []
        self.roles: list[tuple[Any, ...]] = []
        self.items = [self._item(offset) for offset in range(self.period)]
        wiring = tuple((item.token, item.args) for item in self.items)
        self.signature: Hashable = (self.trips, wiring, tuple(self.roles))

    def _item(self, offset: int) -> Item:
        """An item of the body; input k of it stands for read k."""
        item = self.block.items[self.start + offset]
        args = tuple(self._argument(offset, position, ref) for position, ref in enumerate(item.args))
        return replace(item, args=args)

    def _argument(self, offset: int, position: int, ref: Ref) -> Ref:
        if ref[0] >= self.start:
            return self.local(ref)[0]
        first = self.start + offset
        refs = tuple(self.block.items[first + t * self.period].args[position] for t in range(self.trips))
        self.reads.append(refs)
        if refs[1][0] >= self.start:
            self.roles.append(("carry", self.local(refs[1])[0]))
        else:
            self.roles.append(("invariant",) if len(set(refs)) == 1 else ("per step",))
        return (-len(self.reads), 0)

    def local(self, ref: Ref) -> tuple[Ref, int]:
        """The value's place in the body, and its step counted from the end: −1 is the last."""
        step, offset = divmod(ref[0] - self.start, self.period)
        return (offset, ref[1]), step - self.trips

    def inputs(self) -> list[Hashable]:
        """For each read what must be the same for two of them to be one input."""
        return [(role, refs) for role, refs in zip(self.roles, self.reads, strict=True)]

    def results(self) -> list[tuple[Ref, int]]:
        """The values that are read outside, as `local` has them."""
        return [self.local(ref) for ref in self.readers]

    def arguments(self, inputs: _Inputs) -> list[Ref]:
        """What the loop is called with: initial carry, per-step values, invariants."""
        streams = [ref for read in inputs.per_step for ref in self.reads[read]]
        carry, invariants = ([self.reads[read][0] for read in reads] for reads in (inputs.carry, inputs.invariants))
        return [*carry, *streams, *invariants]

    def made(self) -> Iterator[tuple[Ref, fx.Node]]:
        """(place in the body, captured node) of all that any step makes: a part of a result may be read in one only."""
        for index in reversed(range(self.start, self.start + self.period * self.trips)):
            for ref in self.slots[index]:
                yield self.local(ref)[0], self.block.origin[ref]

    def body(self, inputs: _Inputs, outputs: list[Ref], made: Mapping[Ref, fx.Node]) -> Block:
        """One step as a block; ``made``: place in the body → a captured node of that place."""
        order = inputs.all()
        place = {read: number for number, read in enumerate(order)}
        taken_in: dict[Ref, fx.Node] = {
            (-1 - k, 0): self.block.origin[self.reads[read][0]] for k, read in enumerate(order)
        }
        origin: dict[Ref, fx.Node] = {**made, **taken_in}

        def taken(ref: Ref) -> Ref:
            return ref if ref[0] >= 0 else (-1 - place[inputs.merged[-1 - ref[0]]], 0)

        items = [replace(item, args=tuple(taken(ref) for ref in item.args)) for item in self.items]
        return Block(items, len(order), outputs, origin)

    def nodes(self) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]:
        """The captured nodes of the first and of the second step."""
        second = self.start + self.period
        return self._nodes_from(self.start), self._nodes_from(second)

    def _nodes_from(self, first: int) -> tuple[fx.Node, ...]:
        found: list[fx.Node] = []
        for item in self.block.items[first : first + self.period]:
            if item.node is not None:
                found.append(item.node)
            elif item.loop is not None:
                found.extend(item.loop.nodes[0])
        return tuple(found)


def _slots_by_item(block: Block) -> dict[int, list[Ref]]:
    slots: dict[int, list[Ref]] = defaultdict(list)
    for ref in block.origin:
        slots[ref[0]].append(ref)
    return slots
