"""A compiled program: the captured graph, its nest, what became of it, and how to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from laser_fx import ops
from laser_fx.call import Call
from laser_fx.captured import Captured
from laser_fx.errors import InputError
from laser_fx.loops import Certificate, LoopNest, Site, Step
from laser_fx.options import Options
from laser_fx.trees import constant, plain_tree, signature_of, tensor

__all__ = ["Mode", "Program"]


@dataclass(frozen=True)
class Mode:
    """What a program was captured under, besides its inputs.

    Args:
        training: the model's ``training`` flag.
        grad_enabled: whether gradients are on.
        autocast: the dtype that autocast computes in, None when it is off.
    """

    training: bool
    grad_enabled: bool
    autocast: torch.dtype | None = None

    def casting(self, call: Call) -> torch.autocast:
        """Autocast as this mode has it, whatever the caller's is: compiling may be asked for anywhere."""
        return torch.autocast(call.device_type, self.autocast, enabled=self.autocast is not None, cache_enabled=False)


@dataclass(frozen=True, eq=False)
class Program:
    """One way through a model, compiled. Frozen; the weights stay the model's own.

    Args:
        model: the model as the user gave it.
        mode: what it was captured under.
        capture: the flat graph and its signature.
        rolled: the rolled graph, exact.
        graph_module: what runs: the rolled graph, with tracking inserted where the options ask for it.
        nest: the loops.
        certificate: that ``rolled`` computes what was captured; None where that could not be proved and loops are left.
        sites: the sites, with ranks where a basis was inserted.
        options: the options in force.
        constants: placeholders that tracking added → their tensors: the threshold and the sketches.
        record_names: sites whose records are the last outputs of ``graph_module``.
        spectra: site → singular values (steps, D) on the example inputs, where they were measured.
        output_spectra: site → singular values (steps, F) of its output, where they were measured.
        left_exact: site → why no basis was inserted there, though the options ask for them.
        unsplit: the loops before a schedule of ranks split them; None where none did.
        notes: what each pass did.
        gradient_error: what the memory plan does to the gradient that is worst off, measured on the example inputs; 0.0
            for exact plans.
    """

    model: nn.Module
    mode: Mode
    capture: Captured
    rolled: fx.GraphModule
    graph_module: fx.GraphModule
    nest: LoopNest
    certificate: Certificate | None
    sites: tuple[Site, ...]
    options: Options
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    record_names: tuple[str, ...] = ()
    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    output_spectra: Mapping[str, Tensor] = field(default_factory=dict)
    left_exact: Mapping[str, str] = field(default_factory=dict)
    unsplit: LoopNest | None = None
    notes: tuple[str, ...] = ()
    gradient_error: float = 0.0

    @property
    def captured(self) -> fx.GraphModule:
        """The flat graph, Python loops unrolled; a `laser_fx.loop` is a loop in it."""
        return self.capture.graph_module

    @property
    def weights(self) -> dict[str, Tensor]:
        """Every placeholder that is neither a user input nor the threshold → its tensor, as the model has it now."""
        states = {name: self._state(target) for name, target in self.capture.states.items()}
        sketches = {name: value for name, value in self.constants.items() if name != "fidelity"}
        return {**states, **self.capture.constants, **sketches}

    @property
    def weight_names(self) -> Mapping[str, str]:
        """Placeholders of parameters and buffers, and their names in the model's state_dict."""
        return self.capture.states

    @property
    def user_inputs(self) -> tuple[str, ...]:
        """Placeholders of the tensor inputs, in order."""
        return self.capture.inputs

    @property
    def input_names(self) -> tuple[str, ...]:
        """A readable name for each of them: ``batch.inputs``."""
        return self.capture.call.names

    @property
    def output_names(self) -> tuple[str, ...]:
        """A readable name for each of the model's tensor outputs."""
        return (*(f"buffer.{name}" for name in self.capture.mutations), *self.capture.output_names)

    @property
    def signature(self) -> str:
        """The model's forward as text."""
        return signature_of(self.model.forward, type(self.model).__qualname__)

    @property
    def input_tree(self) -> Any:
        """Arguments and keyword arguments as `laser_fx.trees.plain_tree`, their tensors by ``input_names``."""
        call = self.capture.call
        fixed, names = dict(call.constants), iter(call.names)
        count = len(fixed) + len(call.names)
        return plain_tree(call.spec, [constant(fixed[i]) if i in fixed else tensor(next(names)) for i in range(count)])

    @property
    def output_tree(self) -> Any:
        """What the model returns as `laser_fx.trees.plain_tree`, its tensors by ``output_names``."""
        names, leaves = self.capture.output_names, self.capture.output_leaves
        places = [constant(value) if index is None else tensor(names[index]) for index, value in leaves]
        return plain_tree(self.capture.output_spec, places)

    @property
    def guards(self) -> tuple[str, ...]:
        """What was assumed of the sizes: the graph holds for no others."""
        return self.capture.guards

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the graph was captured with."""
        return self.capture.call.tensors

    def run(self, call: Call) -> tuple[Any, tuple[Any, ...]]:
        """The model's output for these inputs, and the records of its sites."""
        values = self.run_graph(self.graph_module, call.tensors)
        own, mutated = len(values) - len(self.record_names), len(self.capture.mutations)
        with torch.no_grad():
            for name, value in zip(self.capture.mutations, values[:mutated], strict=True):
                self._state(name).copy_(value)
        return self.capture.rebuild_outputs(values[mutated:own]), tuple(values[own:])

    def run_graph(self, graph_module: fx.GraphModule, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Run any graph of this program on input tensors."""
        # The graph switches grad mode inside; whatever happens, the caller's is restored.
        with torch.set_grad_enabled(self.mode.grad_enabled):
            return tuple(graph_module(*self.arguments(graph_module, tensors)))

    def arguments(self, graph_module: fx.GraphModule, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What any graph of this program takes, for these input tensors."""
        given = {**self._fixed, **dict(zip(self.capture.inputs, tensors, strict=True))}
        states = self.capture.states
        return [given[name] if name in given else self._state(states[name]) for name in _placeholders(graph_module)]

    def steps(self, records: Sequence[Any]) -> dict[str, tuple[Step, ...]]:
        """Records as data: site → its steps, in the order of execution."""
        return {
            key: tuple(_step(stats) for stats in flat_record(record))
            for key, record in zip(self.record_names, records, strict=True)
        }

    @cached_property
    def _fixed(self) -> dict[str, Tensor]:
        return {**self.capture.constants, **self.constants}

    def _state(self, name: str) -> Tensor:
        owner, _, attribute = name.rpartition(".")
        value = getattr(self.model.get_submodule(owner), attribute)
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} was a tensor when the model was captured, and is a {type(value).__name__} now",
                where=f"{type(self.model).__name__}.{name}",
                fix="compile the model again after changing its structure",
            )
        return value


def flat_record(record: Any) -> Iterator[Tensor]:
    """The tensors of a record: a list over steps, nested as the loops are.

    >>> len(list(flat_record([[torch.ones(5)] * 6] * 3)))
    18
    """
    if isinstance(record, Tensor):
        yield record
    else:
        for entry in record:
            yield from flat_record(entry)


def _placeholders(graph_module: fx.GraphModule) -> list[str]:
    return [node.name for node in graph_module.graph.find_nodes(op="placeholder")]


def _step(stats: Tensor) -> Step:
    values = stats.tolist()
    return Step(
        fidelity=values[ops.FIDELITY],
        rank=int(values[ops.RANK]) if values[ops.RANK] == values[ops.RANK] else 0,
        tracked=bool(values[ops.TRACKED]),
        reset=bool(values[ops.RESET]),
        exact=bool(values[ops.EXACT]),
    )
