"""Finds the weight-shared loops of a normalised view, nested ones too.

A loop of period p is a run of items in which every item has the token of the one p places before it, and every argument
is, compared with the same argument one step earlier, one of

- *shifted*: made by the corresponding item of its own step, or of the step before (then it is carried);
- *invariant*: the same value, made before the loop;
- *per step*: another value, also made before the loop;
- in the first step only, a value from before the loop where later steps read the carry: its initial value.

A run that breaks any of these is not a loop. Runs are collapsed into one item, and the search goes on outside and inside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import fx

from laser_fx.passes.normalise import Block, Item, Ref, Slot, View, describe

__all__ = ["FoundLoop", "detect"]

_RECURRENCES = 3
"""Periods are proposed by the next few occurrences of a token; longer ones appear once shorter loops are collapsed."""


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
class _Run:
    """``trips`` repetitions of ``period`` items from ``start`` on."""

    start: int
    period: int
    trips: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.trips


def detect(view: View, min_trip: int = 2) -> Block:
    """The view's block with every loop collapsed into one item.

    Args:
        view: from `normalise`.
        min_trip: shortest repetition that counts.
    """
    return _detect(view.block, view, min_trip)


def _detect(block: Block, view: View, min_trip: int) -> Block:
    while True:
        search = _Search(block, view.weights)
        # A repetition of three is evidence by itself; two steps are looked for only where nothing longer is left.
        runs = search.runs(max(3, min_trip)) or (search.runs(min_trip) if min_trip < 3 else [])
        if not runs:
            return block
        block = _Collapser(block, runs, view, min_trip).run()


class _Search:
    """Runs of one block."""

    def __init__(self, block: Block, weights: frozenset[fx.Node]) -> None:
        self.items = block.items
        self.weights = {ref for ref, node in block.origin.items() if node in weights}
        self.tokens = [item.token for item in block.items]
        self.args = [item.args for item in block.items]
        self.kinds = {ref: describe(node.meta.get("val")) for ref, node in block.origin.items()}

    def runs(self, min_trip: int) -> list[_Run]:
        """The best runs that do not overlap: most items first, then the shortest period, then the earliest."""
        found = [run for period, starts in self._periods() for run in self._runs_of(period, starts, min_trip)]
        found.sort(key=lambda pair: (-pair[0].period * pair[0].trips, pair[0].period, pair[0].start))
        taken = bytearray(len(self.items))
        chosen = []
        for run, slack in found:
            if any(taken[run.start : run.stop]):
                continue
            run = self._rotate(run, slack, taken)
            taken[run.start : run.stop] = b"\1" * (run.stop - run.start)
            chosen.append(run)
        return sorted(chosen, key=lambda run: run.start)

    def _periods(self) -> list[tuple[int, list[int]]]:
        """Proposed periods, shortest first, each with the places where it may begin."""
        places: dict[object, list[int]] = defaultdict(list)
        for index, (token, args) in enumerate(zip(self.tokens, self.args, strict=True)):
            places[token].append(index)
            # The distance of each argument tells apart items that have one token but another role.
            places[token, tuple((index - a if a >= 0 else -1, slot) for a, slot in args)].append(index)
        proposed: dict[int, set[int]] = defaultdict(set)
        for indices in places.values():
            for ahead in range(1, _RECURRENCES + 1):
                for first, second in zip(indices, indices[ahead:], strict=False):
                    proposed[second - first].add(first)
        return [(period, sorted(starts)) for period, starts in sorted(proposed.items())]

    def _runs_of(self, period: int, starts: list[int], min_trip: int) -> Iterator[tuple[_Run, int]]:
        done = 0
        for start in starts:
            if start < done:
                continue
            first, last = self._matching(period, start, done)
            done = max(last, start + 1)
            if last - first >= period:
                yield from self._verified(period, first, last, min_trip)

    def _matching(self, period: int, start: int, floor: int) -> tuple[int, int]:
        """The widest [first, last) around ``start`` in which every token recurs one period later."""
        tokens, limit = self.tokens, len(self.tokens) - period
        first, last = start, start
        while first > floor and tokens[first - 1] == tokens[first - 1 + period]:
            first -= 1
        while last < limit and tokens[last] == tokens[last + period]:
            last += 1
        return first, last

    def _verified(self, period: int, first: int, last: int, min_trip: int) -> Iterator[tuple[_Run, int]]:
        start = first
        while start + period <= last:
            broken = self._first_break(start, period)
            if broken is not None:
                start = max(broken, start + 1)
                continue
            end = start + period
            while end < last and self._break_at(end, period, start, False) is None:
                end += 1
            trips, slack = divmod(end + period - start, period)
            run = _Run(start, period, trips)
            if trips >= min_trip and self._is_recursive(run):
                yield run, slack
                start = run.stop - period if slack else max(start + 1, run.stop - period)
            else:
                start += 1

    def _first_break(self, start: int, period: int) -> int | None:
        for index in range(start, start + period):
            broken = self._break_at(index, period, start, True)
            if broken is not None:
                return broken
        return None

    def _break_at(self, index: int, period: int, start: int, first: bool) -> int | None:
        """None if the arguments of ``index`` and of its successor one period later fit, else the next start worth trying."""
        for (a, slot_a), (b, slot_b) in zip(self.args[index], self.args[index + period], strict=True):
            same = slot_a == slot_b
            if same and ((a == b and a < start) or (b - a == period and a >= start)):
                continue
            if a < start and b < start and self._same_kind((a, slot_a), (b, slot_b)):
                continue
            if first and a < start <= b < start + period and self._same_kind((a, slot_a), (b, slot_b)):
                continue
            return a + 1 if same and a == b else index + 1
        return None

    def _same_kind(self, a: Ref, b: Ref) -> bool:
        return self.kinds[a] == self.kinds[b]

    def _is_recursive(self, run: _Run) -> bool:
        """Something is carried, and a weight is shared."""
        step = range(run.start, run.start + run.period)
        return any(self._shares_weight(i, run.period) for i in step) and self._carry_width(run) > 0

    def _shares_weight(self, index: int, period: int) -> bool:
        """A weight stands in the item's token, or is the same argument one step later."""
        held = [ref for ref in self.args[index] if ref in self.weights]
        if not held:
            return self.items[index].reads_weight
        return any(ref in self.args[index + period] for ref in held)

    def _carry_width(self, run: _Run) -> int:
        second = range(run.start + run.period, run.start + 2 * run.period)
        return len({ref for i in second for ref in self.args[i] if run.start <= ref[0] < run.start + run.period})

    def _rotate(self, run: _Run, slack: int, taken: bytearray) -> _Run:
        """Of the starts that the slack allows: narrowest carry, then at a module's door, then earliest."""
        best = (self._carry_width(run), self._depth(run.start), 0)
        for shift in range(1, min(slack, run.period - 1) + 1):
            moved = replace(run, start=run.start + shift)
            free = not any(taken[moved.start : moved.stop])
            if free and self._holds(moved) and self._is_recursive(moved):
                best = min(best, (self._carry_width(moved), self._depth(moved.start), shift))
        return replace(run, start=run.start + best[2])

    def _holds(self, run: _Run) -> bool:
        last = run.stop - run.period
        return self._first_break(run.start, run.period) is None and all(
            self._break_at(i, run.period, run.start, False) is None for i in range(run.start + run.period, last)
        )

    def _depth(self, index: int) -> int:
        item = self.items[index]
        while item.loop is not None:
            item = item.loop.body.items[0]
        return len(item.node.meta.get("nn_module_stack") or ()) if item.node is not None else 0


class _Collapser:
    """Replaces runs by loop items."""

    def __init__(self, block: Block, runs: list[_Run], view: View, min_trip: int) -> None:
        self.block, self.runs, self.view, self.min_trip = block, runs, view, min_trip
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
        token = self.view.intern(("loop", step.trips, step.signature()))
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
                bodies[token] = _detect(body, self.view, self.min_trip)
            loop = FoundLoop(step.trips, len(step.carry), len(step.per_step), bodies[token], step.nodes())
            self.items[place] = replace(self.items[place], loop=loop)


class _Step:
    """One step of a run: what each argument of its items is."""

    def __init__(self, block: Block, run: _Run, slots: Mapping[int, list[Ref]]) -> None:
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
        origin = {(-1 - k, 0): self.block.origin[ref] for k, ref in enumerate(inputs)}
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
