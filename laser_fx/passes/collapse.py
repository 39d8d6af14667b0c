"""Replaces the runs that `detect` found by single items, each of which stands for a loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from laser_fx.passes.normalise import Block, Interner, Item, Ref, Slot

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
        self.readers = self._outside_reads()
        self.items: list[Item] = []
        self.moved: dict[Ref, Ref] = {}
        self.origin = {ref: block.origin[ref] for index in self.slots if index < 0 for ref in self.slots[index]}
        # Equal loops number their results alike, so that the loops around them can be equal too.
        self.results: dict[int, dict[Ref, int]] = defaultdict(dict)
        self.pending: dict[int, tuple[_Step, int]] = {}

    def run(self) -> Block:
        starts = {run.start: number for number, run in enumerate(self.runs)}
        index = 0
        while index < len(self.block.items):
            if index in starts:
                self._collapse(starts[index])
                index = self.runs[starts[index]].stop
            else:
                self._keep(index)
                index += 1
        self._attach_loops()
        outputs = [self._map(o) if isinstance(o, tuple) else o for o in self.block.outputs]
        return Block(self.items, self.block.inputs, outputs, self.origin)

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
        self.items.append(replace(item, args=tuple(self._map(ref) for ref in item.args)))
        for ref in self.slots[index]:
            self._move(ref, (place, ref[1]))

    def _move(self, old: Ref, new: Ref) -> None:
        self.moved[old] = new
        self.origin[new] = self.block.origin[old]

    def _collapse(self, number: int) -> None:
        step = _Step(self.block, self.runs[number], self.slots)
        token = self.intern(("loop", step.trips, step.signature()))
        place = len(self.items)
        args = tuple(self._map(ref) for ref in step.arguments())
        for ref in self.readers.get(number, []):
            self._move(ref, (place, self._slot(step, token, ref)))
        self.pending[place] = step, token
        self.items.append(Item(token, args, None, True))

    def _slot(self, step: _Step, token: int, ref: Ref) -> Slot:
        """Final carry k: ``("carry", k)``. Result j of any step t: ``("step", j, t − trip_count)``."""
        local, trip = step.local(ref)
        if trip == -1 and local in step.next_carry:
            return ("carry", step.next_carry.index(local))
        numbers = self.results[token]
        return ("step", numbers.setdefault(local, len(numbers)), trip)

    def _attach_loops(self) -> None:
        """Now that all readers of equal loops are known, give each loop its body, searched for loops in turn."""
        bodies: dict[int, Block] = {}
        for place, (step, token) in self.pending.items():
            if token not in bodies:
                body = step.body([*step.next_carry, *self.results[token]])
                bodies[token] = self.search(body)
            loop = FoundLoop(step.trips, len(step.carry), len(step.per_step), bodies[token], step.nodes())
            self.items[place] = replace(self.items[place], loop=loop)


class _Step:
    """One step of a run: what each argument of its items is."""

    def __init__(self, block: Block, run: Run, slots: Mapping[int, list[Ref]]) -> None:
        self.block, self.slots = block, slots
        self.start, self.period, self.trips = run.start, run.period, run.trips
        carry: dict[tuple[Ref, Ref], None] = {}
        per_step: dict[tuple[Ref, ...], None] = {}
        invariants: dict[Ref, None] = {}
        for refs in self._outer_reads():
            if refs[1][0] >= self.start:
                carry[refs[0], refs[1]] = None
            elif len(set(refs)) == 1:
                invariants[refs[0]] = None
            else:
                per_step[refs] = None
        self.carry, self.per_step, self.invariants = list(carry), list(per_step), list(invariants)
        self.next_carry = [self.local(following)[0] for _, following in self.carry]

    def _outer_reads(self) -> Iterator[tuple[Ref, ...]]:
        """For each argument of the first step that comes from outside: what stands there in every step."""
        for offset in range(self.period):
            for position, ref in enumerate(self.block.items[self.start + offset].args):
                if ref[0] < self.start:
                    yield self._through_steps(offset, position)

    def _through_steps(self, offset: int, position: int) -> tuple[Ref, ...]:
        first = self.start + offset
        return tuple(self.block.items[first + t * self.period].args[position] for t in range(self.trips))

    def local(self, ref: Ref) -> tuple[Ref, int]:
        """The value's place in the body, and its step counted from the end: −1 is the last."""
        step, offset = divmod(ref[0] - self.start, self.period)
        return (offset, ref[1]), step - self.trips

    def arguments(self) -> list[Ref]:
        """What the loop is called with: initial carry, per-step values, invariants."""
        streams = [ref for refs in self.per_step for ref in refs]
        return [first for first, _ in self.carry] + streams + self.invariants

    def _input_of(self, offset: int, position: int) -> Ref:
        ref = self.block.items[self.start + offset].args[position]
        if ref[0] >= self.start:
            return self.local(ref)[0]
        refs = self._through_steps(offset, position)
        if refs[1][0] >= self.start:
            number = self.carry.index((refs[0], refs[1]))
        elif len(set(refs)) == 1:
            number = len(self.carry) + len(self.per_step) + self.invariants.index(refs[0])
        else:
            number = len(self.carry) + self.per_step.index(refs)
        return (-1 - number, 0)

    def _body_items(self) -> list[Item]:
        items = self.block.items[self.start : self.start + self.period]
        return [
            replace(item, args=tuple(self._input_of(offset, position) for position in range(len(item.args))))
            for offset, item in enumerate(items)
        ]

    def signature(self) -> Hashable:
        """Equal for two loops that compute the same function of their arguments."""
        wiring = tuple((item.token, item.args) for item in self._body_items())
        return wiring, tuple(self.next_carry), len(self.per_step), len(self.invariants)

    def body(self, outputs: list[Ref]) -> Block:
        """One step as a block."""
        inputs = [first for first, _ in self.carry] + [refs[0] for refs in self.per_step] + self.invariants
        origin: dict[Ref, fx.Node] = {(-1 - k, 0): self.block.origin[ref] for k, ref in enumerate(inputs)}
        for offset in range(self.period):
            for ref in self.slots[self.start + offset]:
                origin[offset, ref[1]] = self.block.origin[ref]
        return Block(self._body_items(), len(inputs), outputs, origin)

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
