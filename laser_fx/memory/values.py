"""The values of a joint graph: which of them backward needs, what they weigh, and what making them again costs."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Literal, NamedTuple

from torch import fx

from laser_fx.memory.codecs import Codec
from laser_fx.memory.costs import codec_time, nanoseconds
from laser_fx.memory.joint import Joint, form_of
from laser_fx.memory.operators import is_random, size, whole

__all__ = ["Encoded", "Keep", "Values", "ancestors"]

Keep = Literal["free", "carry", "once", "each"]
"""What keeping an input costs: nothing, what the carry costs at every step, its bytes once a loop, or at every step."""


class Encoded(NamedTuple):
    """What a codec costs: bytes that are kept, and nanoseconds to encode and decode."""

    bytes: int
    time: int


class Values:
    """What a cut has to know about a joint graph.

    Args:
        joint: the graph.
        keeps: what keeping each input costs.
        trips: steps of the loop that the segment is the body of.
        carried: for each input that is a carry the output that the next step gets there. The two are one tensor, and
            a step needs its carry in nearly every choice: keeping either is free in comparisons, and counted in totals.
        fastest: whether products of backward take the fastest kernel.

    Attributes:
        carries: each carry with the value that the next step gets there.
        forward: inputs, what the outputs are made of, and what their operators return besides.
    """

    def __init__(
        self,
        joint: Joint,
        keeps: Sequence[Keep],
        trips: int,
        carried: Sequence[fx.Node] = (),
        *,
        fastest: bool = False,
    ) -> None:
        self.joint, self.fastest, self._trips = joint, fastest, trips
        self._keeps = {node: keep for node, keep in zip(joint.inputs, keeps, strict=True) if node is not None}
        held = [node for node, keep in self._keeps.items() if keep == "carry"]
        self.carries = list(zip(held, (whole(node) for node in carried), strict=True))
        self._carried = {node for pair in self.carries for node in pair}
        self._known: dict[tuple[fx.Node, Codec], Encoded] = {}
        self._times: dict[fx.Node, int] = {}
        self.forward = self._forward()

    def _forward(self) -> frozenset[fx.Node]:
        """Inputs, all that the outputs are made of, and what their operators return besides."""
        found = {node for node in self.joint.inputs if node is not None} | ancestors(self.joint.outputs)
        besides = {user for node in found for user in node.users if user.target is operator.getitem}
        random = {node for node in self.joint.graph.nodes if is_random(node)}
        return frozenset(found | besides | random | ancestors(random))

    @cached_property
    def needed(self) -> tuple[fx.Node, ...]:
        """Values of the forward that backward reads, or returns, in the order of the graph."""
        backward = [n for n in self.joint.graph.nodes if n.op != "output" and n not in self.forward]
        read = {source for node in backward for source in node.all_input_nodes} | set(self.joint.gradients)
        return tuple(node for node in self.joint.graph.nodes if node in self.forward and node in read)

    @cached_property
    def kept_by_eager(self) -> tuple[fx.Node, ...]:
        """What autograd keeps alive: the storages of the needed values."""
        return tuple(dict.fromkeys(whole(node) for node in self.needed))

    def is_invariant(self, node: fx.Node) -> bool:
        """Whether an input is the same at every step of the loop."""
        return self._keeps.get(node) in ("free", "once")

    def weight(self, node: fx.Node) -> int:
        """Bytes that keeping a value costs at one step, besides the carry."""
        keep = self._keeps.get(node)
        if keep == "free" or node in self._carried:
            return 0
        return size(node) // (self._trips if keep == "once" else 1)

    def share(self, node: fx.Node) -> int:
        """Bytes that keeping a value costs at one step."""
        return size(node) if node in self._carried else self.weight(node)

    def total(self, kept: Mapping[fx.Node, Codec | None]) -> int:
        """Bytes that keeping these costs at one step; a carry that goes in and the one that comes out are one."""
        exact = {node for node, codec in kept.items() if codec is None}
        carries = sum(size(held) for held, following in self.carries if held in exact or following in exact)
        return (
            carries
            + sum(self.weight(node) for node in exact)
            + sum(self.encoded(node, codec).bytes for node, codec in kept.items() if codec is not None)
        )

    def kept_bytes(self, node: fx.Node, codec: Codec | None) -> int:
        """Bytes that keeping a value costs at one step."""
        return self.share(node) if codec is None else self.encoded(node, codec).bytes

    def encoded(self, node: fx.Node, codec: Codec) -> Encoded:
        """What keeping a value with a codec costs at one step."""
        entry = self._known.get((node, codec))
        if entry is None:
            form = form_of(node.meta["val"], False)
            entry = self._known[node, codec] = Encoded(codec.bytes(form), codec_time(codec, form))
        return entry

    def forget_encoded(self) -> None:
        """Ask codecs anew what they cost: bases change their rank."""
        self._known.clear()

    def time(self, node: fx.Node) -> int:
        """What making a value again in backward takes, in nanoseconds; 0 for views."""
        known = self._times.get(node)
        if known is None:
            known = self._times[node] = nanoseconds(node, fastest=self.fastest)
        return known

    @cached_property
    def eager_time(self) -> int:
        """What forward and backward of one step take in eager, in nanoseconds."""
        return sum(nanoseconds(node, fastest=False) for node in self.joint.graph.nodes)

    def planned_time(self, kept: Mapping[fx.Node, Codec | None]) -> int:
        """What they take where these are kept."""
        again = ancestors(self.needed, set(kept)) & self.forward
        coded = sum(self.encoded(node, codec).time for node, codec in kept.items() if codec is not None)
        return self._run_time + sum(self.time(node) for node in again) + coded

    @cached_property
    def _run_time(self) -> int:
        """What forward and backward take where nothing is made again."""
        backward = [node for node in self.joint.graph.nodes if node not in self.forward]
        return sum(nanoseconds(node, fastest=False) for node in self.forward) + sum(map(self.time, backward))


def ancestors(nodes: Iterable[fx.Node], known: AbstractSet[fx.Node] = frozenset()) -> set[fx.Node]:
    """These nodes and all that they are made of, up to what is known."""
    waiting = [node for node in nodes if node not in known]
    seen = set(waiting)
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source not in seen and source not in known]
        seen.update(new)
        waiting.extend(new)
    return seen
