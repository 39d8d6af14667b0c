"""Which operator a training step holds its memory for: attributes every saved tensor while the step runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from laser_fx.memory.classes import foremost, operator_class, readers_class
from laser_fx.memory.measure import saved_storages
from laser_fx.memory.segment import Segment

__all__ = ["saved_by_class"]

_UNKNOWN = "other"


class _Label:
    """The class of a saved tensor; a planned segment says it only when it has saved all of its own."""

    def __init__(self, name: str = _UNKNOWN) -> None:
        self.name = name


class _Attribution(TorchFunctionMode):
    """Knows which function of torch is being called, and which planned segment saves."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.pending: list[_Label] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(operator_class(func))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.calls.pop()

    def label(self) -> _Label:
        """For a tensor that is being saved."""
        if self.calls:
            return _Label(self.calls[-1])
        label = _Label()
        if self.pending is not None:
            self.pending.append(label)
        return label

    @contextmanager
    def watching(self, segments: Iterable[Segment]) -> Iterator[None]:
        """Inside, what planned segments save is told apart by the values that it stands for."""
        with ExitStack() as stack:
            for segment in segments:
                stack.callback(segment.register_forward_pre_hook(self._begin).remove)
                stack.callback(segment.register_forward_hook(self._end).remove)
            yield

    def _begin(self, segment: nn.Module, inputs: Any) -> None:
        self.pending = []

    def _end(self, segment: nn.Module, inputs: Any, outputs: Any) -> None:
        assert isinstance(segment, Segment)
        labels, self.pending = self.pending or [], None
        for label, name in zip(labels, _classes(segment, outputs), strict=False):
            label.name = name


def saved_by_class(
    fn: Callable[[], object], segments: Iterable[Segment] = (), *, exclude: Iterable[Tensor] = ()
) -> dict[str, int]:
    """What `laser_fx.memory.measure.saved_bytes` counts, by class of the operators that save it.

    A storage that several save counts for the class that `foremost` says. What a planned segment keeps counts for the
    operators that read it.

    Args:
        fn: one forward call; compiled ones have been called before.
        segments: of a plan in force.
        exclude: tensors that live anyway.

    >>> import torch
    >>> weight, x = torch.nn.Parameter(torch.ones(8, 8)), torch.ones(4, 8)
    >>> saved_by_class(lambda: (x @ weight).exp())
    {'elementwise': 128, 'linear': 128}
    """
    attribution = _Attribution()
    with attribution.watching(segments), attribution:
        storages = saved_storages(fn, attribution.label, exclude=exclude)
    found: Counter[str] = Counter()
    for size, labels in storages:
        found[foremost(label.name for label in labels)] += size
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def _classes(segment: Segment, outputs: Any) -> Iterator[str]:
    """Of each tensor that the segment saved in this run, in order."""
    runs = [o.grad_fn for o in outputs if isinstance(o, Tensor) and hasattr(o.grad_fn, "layout")]
    if not runs or segment.latest is None:
        return
    kept = segment.policy.choose(segment.values(segment.latest))
    inputs_first = sorted(kept, key=lambda node: node.op != "placeholder")
    for node, (_, count) in zip(inputs_first, runs[0].layout, strict=True):  # type: ignore[union-attr]
        yield from [readers_class(node)] * count
