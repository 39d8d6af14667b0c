"""What detection returns: loops, their nest, and the sites in them. Data only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

__all__ = ["Certificate", "Loop", "LoopNest", "NearMiss", "Site", "Step"]


@dataclass(frozen=True)
class Loop:
    """A weight-shared region that is repeated ``trip_count`` times.

    Args:
        name: ``loop_0`` for the first outermost loop, ``loop_0_1`` for the second loop inside it.
        trip_count: how often the body runs.
        carry: values passed from step to step, one text each, as ``add_3: float32[s0, 36, 256]``.
        invariants: values that are the same at every step, weights not counted.
        per_step: values that differ by step and are known up front.
        step_outputs: values of the body that are used outside, other than the final carry.
        parameters: names of the model's parameters that the body reads, loops inside it included.
        children: the loops inside the body, in order.
        body: one iteration. Placeholders are carry, per-step values, then invariants; it returns the
            next carry, then the step outputs.
        source: ``file:line`` of the loop in the model's code, where the tracer knew it.
        grad_enabled: whether the loop was captured with gradients on.
    """

    name: str
    trip_count: int
    carry: tuple[str, ...] = ()
    invariants: tuple[str, ...] = ()
    per_step: tuple[str, ...] = ()
    step_outputs: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    children: tuple[Loop, ...] = ()
    body: fx.GraphModule | None = field(default=None, compare=False, repr=False)
    source: str | None = None
    grad_enabled: bool = False

    def walk(self) -> Iterator[Loop]:
        """This loop, then all loops inside it, outermost first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class LoopNest:
    """All loops of a graph: the outermost ones in program order.

    >>> inner = Loop("loop_0_0", 6, carry=("z_L",))
    >>> nest = LoopNest((Loop("loop_0", 3, carry=("z_H", "z_L"), children=(inner,)),))
    >>> [loop.name for loop in nest.walk()]
    ['loop_0', 'loop_0_0']
    >>> print(nest.tree())
    loop_0 × 3  carry 2, invariants 0
      loop_0_0 × 6  carry 1, invariants 0
    """

    loops: tuple[Loop, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.loops)

    def walk(self) -> Iterator[Loop]:
        """Every loop of the nest, each before the loops inside it."""
        for loop in self.loops:
            yield from loop.walk()

    def trips(self) -> tuple[tuple[int, int], ...]:
        """(nesting level, trip count) of every loop in `walk` order.

        >>> LoopNest((Loop("loop_0", 3, children=(Loop("loop_0_0", 6),)),)).trips()
        ((0, 3), (1, 6))
        """
        return tuple((level, loop.trip_count) for level, loop in self._levels())

    def trips_around(self, name: str) -> tuple[int, ...]:
        """Trip counts of a loop and of those around it, outermost first; none where there is no such loop.

        >>> LoopNest((Loop("loop_0", 3, children=(Loop("loop_0_0", 6),)),)).trips_around("loop_0_0")
        (3, 6)
        """
        path: list[Loop] = []
        for level, loop in self._levels():
            path[level:] = [loop]
            if loop.name == name:
                return tuple(around.trip_count for around in path)
        return ()

    def tree(self) -> str:
        """The nest as indented text, one loop a line."""
        lines = []
        for level, loop in self._levels():
            line = f"{'  ' * level}{loop.name} × {loop.trip_count}"
            line += f"  carry {len(loop.carry)}, invariants {len(loop.invariants)}"
            if loop.per_step:
                line += f", per step {len(loop.per_step)}"
            if loop.step_outputs:
                line += f", step outputs {len(loop.step_outputs)}"
            if loop.source:
                line += f"  {loop.source}"
            lines.append(line)
        return "\n".join(lines)

    def _levels(self) -> Iterator[tuple[int, Loop]]:
        def descend(loop: Loop, level: int) -> Iterator[tuple[int, Loop]]:
            yield level, loop
            for child in loop.children:
                yield from descend(child, level + 1)

        for loop in self.loops:
            yield from descend(loop, 0)


@dataclass(frozen=True)
class NearMiss:
    """A repetition that is nearly a loop, and what keeps it from being one.

    Args:
        steps: how many steps in a row are equal.
        operators: operators a step.
        step: the step that differs, from 0; it may come right before the equal ones. None where no single one does.
        node: the operator at which it broke, by its name in the captured graph.
        argument: the argument that differs there, None where it is not an argument.
        reason: the whole story, one sentence.
        source: ``file:line`` of the operator in the model's code, where the tracer knew it.

    >>> reason = "3 steps of 2 operators repeat, the 4th does not: mul_3 has the constant other = 2"
    >>> print(NearMiss(3, 2, 3, "mul_3", "other", reason, "models/trm.py:88"))
    3 steps of 2 operators repeat, the 4th does not: mul_3 has the constant other = 2 — models/trm.py:88
    """

    steps: int
    operators: int
    step: int | None
    node: str
    argument: str | None
    reason: str
    source: str | None = None

    def __str__(self) -> str:
        return self.reason if self.source is None else f"{self.reason} — {self.source}"


@dataclass(frozen=True)
class Site:
    """An activation X, flattened to (N, D), that a weight-shared linear consumes inside a loop.

    Args:
        name: module path of the linear, ``layers.0.mlp.gate_up_proj``.
        loop: name of the innermost loop around it. A module called in two loops makes two sites.
        weight: name of the weight in the model's state_dict.
        rows: N at the example inputs.
        features: D, the width of X.
        outputs: F, the width of ``XW``.
        steps: how often the site runs in one call: the product of the trip counts around it.
        rank: columns of its basis, ``None`` before one is chosen.
        objective: what a basis for inference keeps: ``"activation"``, ``"output"``, or ``"answer"`` where it was
            calibrated; ``None``: no such basis. Of the latter two fidelity is an estimate.
    """

    name: str
    loop: str
    weight: str
    rows: int
    features: int
    outputs: int
    steps: int
    rank: int | None = None
    objective: str | None = None

    @property
    def key(self) -> str:
        """Unique name in a graph: loop and module path.

        >>> Site("mlp.down", "loop_0", "mlp.down.weight", 72, 768, 256, 18).key
        'loop_0:mlp.down'
        """
        return f"{self.loop}:{self.name}"

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D) at the example inputs."""
        return self.rows, self.features


@dataclass(frozen=True)
class Step:
    """What one step at one site measured and did.

    Args:
        fidelity: ``‖XQ‖²/‖X‖²`` of the basis that the step ended with, uncentred.
        rank: least number of that basis's columns that reach the threshold; its full width where none do.
        tracked: the basis at hand fell below the threshold, and a power iteration was made.
        reset: the tracked basis fell below it too, and a fresh one was made.
        exact: that one fell below it as well: the step used the exact X.
    """

    fidelity: float
    rank: int
    tracked: bool
    reset: bool
    exact: bool


@dataclass(frozen=True)
class Certificate:
    """That a rolled graph computes what was captured, as the checker saw it.

    Args:
        operations: operators of the captured graph that were matched.
        looked_through: (node, reason) for every captured node that was taken for its own input.
        merged: (node, node) for every captured node that computes the same as an earlier one, and is that one.
    """

    operations: int
    looked_through: tuple[tuple[str, str], ...] = ()
    merged: tuple[tuple[str, str], ...] = ()
