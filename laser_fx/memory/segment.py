"""A part of a training graph that keeps for backward what a plan says, and makes the rest again.

Where gradients are on, it runs as one autograd function. What backward needs goes through ``save_for_backward``, so
that hooks on saved tensors see it, and what changed in between is refused as in eager.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from laser_fx.aside import is_checkpointed
from laser_fx.errors import InputError
from laser_fx.memory.codecs import Codec
from laser_fx.memory.joint import Form, form_of, trace_joint
from laser_fx.memory.outputs import distinct
from laser_fx.memory.policy import Policy, Priced
from laser_fx.memory.split import Compiler, Split, split
from laser_fx.memory.tracked import Tracked
from laser_fx.memory.values import Keep, Values
from laser_fx.swaps import refuse_swapped, watch

__all__ = ["Segment"]

K = TypeVar("K")
V = TypeVar("V")

_FORMS = 32
"""Cuts that a segment remembers, one for every form of its inputs."""
_GRAPHS = 4
"""Joint graphs that it remembers."""


class Segment(nn.Module):
    """Runs a graph; its backward keeps what `policy` chooses.

    A cut is made for the form of the inputs at hand: shapes, strides, dtypes, devices and which of them ask for a
    gradient. A new batch size is traced anew, so that nothing of an earlier one can be burnt in.

    Args:
        name: ``loop_0``, or ``loop_0#1`` for the second one of a body; ``top`` outside of loops.
        graph: takes tensors and whole numbers, returns tensors.
        keeps: what keeping each input costs.
        carried: places of the outputs that the next step gets as its carries, in the order of those.
        trips: steps of the loop it is in.
        times: how often it runs in one call of the model.
        autocast: the dtype that autocast computes in, None when it is off.
        fastest: whether products of backward take the fastest kernel, see `laser_fx.memory.products`.
        linears: names of the linears in it whose weight is the same at every step, in the order of the graph.

    Attributes:
        bases: name of a value → its bases, where it is kept in low rank.
        latest: forms of the inputs of the last call.
        errors: name of a value → what keeping it as the policy says does to the gradients, by itself, where measured.
    """

    graph: fx.GraphModule

    def __init__(
        self,
        name: str,
        graph: fx.GraphModule,
        keeps: tuple[Keep, ...],
        carried: tuple[int, ...],
        trips: int,
        times: int,
        autocast: torch.dtype | None,
        fastest: bool,
        linears: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.name, self.graph, self.keeps, self.carried = name, graph, keeps, carried
        self.trips, self.times, self.autocast, self.fastest = trips, times, autocast, fastest
        self.linears = linears
        self.bases = nn.ModuleDict()
        self.latest: tuple[Any, ...] | None = None
        self.errors: dict[str, float] = {}
        self._policy: Policy = Priced()
        self._step = 0
        self._compiler: Compiler | None = None
        self._splits: OrderedDict[tuple[Any, ...], Split] = OrderedDict()
        self._values: OrderedDict[tuple[Any, ...], Values] = OrderedDict()

    @property
    def policy(self) -> Policy:
        """How its cuts are chosen."""
        return self._policy

    def follow(self, policy: Policy, kept: Mapping[fx.Node, Codec | None]) -> None:
        """Cut as a policy says from now on.

        Args:
            policy: chooses what is kept.
            kept: what it chooses here: the bases of values in low rank become the segment's own.
        """
        self._policy = policy
        self._splits.clear()
        self.bases = nn.ModuleDict({node.name: codec for node, codec in kept.items() if isinstance(codec, Tracked)})

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        asks = [isinstance(value, Tensor) and value.requires_grad for value in inputs]
        if not torch.is_grad_enabled() or not any(asks):
            return tuple(self.graph(*inputs))
        self.latest = self._forms(inputs, asks)
        if any(isinstance(value, FakeTensor) for value in inputs):
            return tuple(self.graph(*inputs))  # a rehearsal, which only looks at forms
        if self.bases and is_checkpointed():
            raise InputError(
                "torch.utils.checkpoint would run the call again with other bases than it had",
                where=f"forward of {self.name}",
                fix="compile with tracking='step', whose bases begin anew at each call, or leave the checkpoint out",
            )
        outputs: tuple[Tensor, ...] = _Cut.apply(  # type: ignore[no-untyped-call]
            _Run(self.name, self._step), self._split(self.latest), *inputs
        )
        self._step += 1
        return outputs

    def compile_with(self, compiler: Compiler) -> None:
        """Run forward and backward in the form that a compiler makes of their graphs."""
        self._compiler = compiler
        self._splits.clear()

    def drop(self) -> None:
        """End a call that failed: bases are those of the call before."""
        self._step = 0
        for tracked in self.bases.values():
            tracked.drop()  # type: ignore[operator]

    def finish(self) -> None:
        """End a call of the model: bases learn from what it kept."""
        self._step = 0
        for tracked in self.bases.values():
            tracked.finish()  # type: ignore[operator]
        for values in self._values.values() if self.bases else ():
            values.forget_encoded()

    def values(self, forms: tuple[Any, ...]) -> Values:
        """What a choice for inputs of these forms has to know."""
        return _remembered(self._values, forms, self._trace, _GRAPHS)

    def extra_repr(self) -> str:
        return f"{self.name}, times={self.times}"

    def _forms(self, inputs: Sequence[Any], asks: Sequence[bool]) -> tuple[Any, ...]:
        # The carry of the first step has no gradient, that of later ones has: one trace serves both.
        wanted = [ask or keep == "carry" for ask, keep in zip(asks, self.keeps, strict=True)]
        return tuple([form_of(value, want) for value, want in zip(inputs, wanted, strict=True)])

    def _split(self, forms: tuple[Any, ...]) -> Split:
        return _remembered(self._splits, forms, self._cut, _FORMS)

    def _cut(self, forms: tuple[Any, ...]) -> Split:
        values = self.values(forms)
        return split(values, self.policy.choose(values), self._compiler)

    def _trace(self, forms: tuple[Any, ...]) -> Values:
        joint = trace_joint(self.graph, forms, self.autocast)
        carried = [joint.outputs[place] for place in self.carried]
        return Values(joint, self.keeps, self.trips, carried, fastest=self.fastest)


def _remembered(known: OrderedDict[K, V], key: K, make: Callable[[K], V], limit: int) -> V:
    """What was made for a key before, or is made now; only the latest ones made are remembered."""
    if key not in known:
        known[key] = make(key)
        if len(known) > limit:
            known.popitem(last=False)
    return known[key]


class _Run(NamedTuple):
    """One run of a segment: its name, and the step of the call that it is."""

    name: str
    step: int


class _Cut(torch.autograd.Function):
    """One run of a segment."""

    @staticmethod
    def forward(ctx: Any, run: _Run, cut: Split, *inputs: Any) -> tuple[Tensor, ...]:
        ctx.name, ctx.cut, ctx.inputs = run.name, cut, len(inputs)
        ctx.set_materialize_grads(False)
        tensors = [inputs[place] for place in cut.tensors]
        with _no_autocast(tensors):
            results = cut.forward(*tensors)
        count = len(cut.differentiable)
        kept = [*[inputs[place] for place in cut.kept_inputs], *results[count:]]
        with _no_autocast(kept):
            ctx.layout, saved = _encoded(cut, kept, run.step)
        ctx.watched = watch(kept[: len(cut.kept_inputs)])
        ctx.save_for_backward(*saved)
        outputs = distinct(results[:count], cut.differentiable, [*tensors, *saved])
        ctx.mark_non_differentiable(*[o for o, reached in zip(outputs, cut.differentiable, strict=True) if not reached])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "create_graph=True asks for what second derivatives need, and a memory plan keeps what first ones need",
                where=f"backward of {ctx.name}",
                fix="compile with laser_fx.Options(memory=None)",
            )
        refuse_swapped(ctx.watched, f"backward of {ctx.name}")
        cut: Split = ctx.cut
        given = [g for g, reached in zip(gradients, cut.differentiable, strict=True) if reached]
        there = {place for place, gradient in enumerate(given) if gradient is not None}
        saved = ctx.saved_tensors
        with _no_autocast(saved or [g for g in given if g is not None]):
            kept = _decoded(cut, ctx.layout, saved)
            found = cut.backward(*kept, *[_fit(g, form) for g, form in zip(given, cut.tangents, strict=True)])
        results: list[Tensor | None] = [None] * ctx.inputs
        for (place, sources), gradient in zip(cut.wanted, found, strict=True):
            results[place] = gradient if sources & there else None  # as in eager: no gradient is not zero
        return None, None, *results


_Stored = tuple[Codec | None, int]
"""How a value is stored, and in how many tensors."""


def _encoded(cut: Split, kept: Sequence[Tensor], step: int) -> tuple[list[_Stored], list[Tensor]]:
    """How each kept value is stored, and all tensors that they are stored in."""
    layout: list[_Stored] = []
    saved: list[Tensor] = []
    for value, codec in zip(kept, cut.codecs, strict=True):
        used, parts = _store(value, codec, step)
        layout.append((used, len(parts)))
        saved.extend(parts)
    return layout, saved


def _store(value: Tensor, codec: Codec | None, step: int) -> tuple[Codec | None, tuple[Tensor, ...]]:
    if codec is None:
        return None, (value,)
    detached = value.detach()
    used, parts = codec.store(detached, step) if isinstance(codec, Tracked) else (codec, codec.encode(detached))
    return used, (value,) if used is None else parts


def _decoded(cut: Split, layout: Sequence[_Stored], saved: Sequence[Tensor]) -> list[Tensor]:
    """The kept values, as nearly as they were stored."""
    left = iter(saved)
    return [
        next(left) if codec is None else codec.decode(tuple(islice(left, count)), form)
        for (codec, count), form in zip(layout, cut.forms, strict=True)
    ]


def _no_autocast(tensors: Sequence[Tensor]) -> torch.autocast:
    """The casts are in the graph."""
    return torch.autocast(tensors[0].device.type if tensors else "cpu", enabled=False)


def _fit(gradient: Tensor | None, form: Form) -> Tensor:
    """The gradient as the graph was traced with it: a sum's gradient, for example, is one number expanded."""
    if gradient is None:
        return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device).zero_()
    if gradient.stride() == form.stride:
        return gradient
    return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device).copy_(gradient)
