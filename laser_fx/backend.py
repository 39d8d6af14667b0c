"""The backend for `torch.compile`: dynamo finds the graphs, laser-fx the loops in each of them.

Registered under the entry point group ``torch_dynamo_backends``::

    torch.compile(model, backend="laser_fx", options={"forward": "exact", "memory": None})
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from laser_fx.call import Call, flatten_call
from laser_fx.errors import CaptureError, NonFiniteError, OptionError
from laser_fx.events import tell
from laser_fx.fingerprint import fingerprint
from laser_fx.options import Options
from laser_fx.program import Program
from laser_fx.programs import Programs, mode_of, run

__all__ = ["Backend", "backend"]

_STATE = re.compile(r"\.(?:_parameters|_buffers)\['[^']*'\]$")
_SELF = re.compile(r"^[LG]\['\w+'\]\.?")
_STEPS = re.compile(r"\.(?:_modules|_parameters|_buffers)\['([^']*)'\]")

Compiled = Callable[..., Any]


def backend(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Compiled:
    """Compile one of dynamo's graphs. ``torch.compile(model, backend="laser_fx", options=…)`` calls this.

    Args:
        graph_module: in torch's dialect; parameters are placeholders, or attributes, as dynamo is set.
        example_inputs: what it was traced with.
        options: the fields of `Options` by name.
        mode: there is none.

    Raises:
        OptionError: an unknown option, a value out of its range, or a mode.
    """
    if mode is not None:
        raise OptionError(f"laser_fx has no modes, not {mode!r}", where="torch.compile(mode)", fix="give options")
    return Backend(_options(options or {}))(graph_module, example_inputs)


class Backend:
    """A backend that keeps what it compiled, to look at.

    Each of dynamo's graphs is compiled when it is first called, on the inputs of that call. One without a loop, or that
    `torch.export` cannot take, runs as it is. Sizes that dynamo left free stay free where they lead.

    Args:
        options: what the programs may do.

    >>> class Looped(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = nn.Linear(8, 8)
    ...     def forward(self, x):
    ...         for _ in range(5):
    ...             x = torch.tanh(self.linear(x))
    ...         return x
    >>> laser = Backend(Options.exact())
    >>> model, x = Looped().eval(), torch.ones(4, 8)
    >>> with torch.no_grad():
    ...     torch.equal(torch.compile(model, backend=laser)(x), model(x))
    True
    >>> [program.nest.trips() for program in laser.programs]
    [((0, 5),)]
    >>> torch.compiler.reset()
    """

    __name__ = "laser_fx"  # as dynamo's log and errors call it

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._graphs: list[_Graph] = []

    @property
    def programs(self) -> tuple[Program, ...]:
        """All that was compiled so far, graph by graph."""
        return tuple(program for graph in self._graphs for program in graph.programs)

    def __call__(self, graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        """A function to call in the graph's place."""
        graph = _Graph(graph_module, example_inputs, self.options)
        self._graphs.append(graph)
        return graph


class _Graph:
    """What dynamo calls in a graph's place."""

    def __init__(self, graph_module: fx.GraphModule, example_inputs: Sequence[Any], options: Options) -> None:
        self._eager = graph_module
        self._model = _Lifted(graph_module, example_inputs)
        self._dynamic = any(isinstance(example, torch.SymInt) for example in example_inputs)
        self._state = fingerprint(self._model)
        self._refused = False
        self.programs = Programs(self._model, options)

    def __call__(self, *arguments: Any) -> Any:
        call = flatten_call(self._model.take(arguments), {})
        program = self._program(call)
        if program is None or not program.nest:
            return self._eager(*arguments)
        return run(program, call)[0]

    def _program(self, call: Call) -> Program | None:
        """The program for these inputs, None where the graph runs as it is. What else it depends on, dynamo guards."""
        if self._refused or not call.tensors:
            return None
        trainable = any(parameter.requires_grad for parameter in self._model.parameters())
        mode = mode_of(call, training=False, trainable=trainable)
        found = self.programs.find(self._state, call, mode)
        if found is not None or self.programs.full():
            return found
        try:
            # Where dynamo burnt the batch in, it is in the code: there is nothing to leave free.
            found = self.programs.compile(self._state, call, mode, dynamic=self._dynamic and call.shared_batch() != 1)
        except (CaptureError, NonFiniteError) as error:
            self._refused = True
            sentence = "one of dynamo's graphs runs as it is: %s"
            tell(logging.WARNING, "backend_refused", sentence, error, error=str(error))
            return None
        trips, sites = found.nest.trips(), len(found.sites)
        sentence = "one of dynamo's graphs has the loops %s and %d sites"
        tell(logging.INFO, "backend_graph", sentence, trips, sites, trips=trips, sites=sites)
        return found


class _Lifted(nn.Module):
    """A graph of dynamo's as a module again: the parameters and buffers that it lifted are in their places.

    Sizes that it takes as arguments are read off its tensors: as numbers, they would be burnt in.
    """

    def __init__(self, graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
        super().__init__()
        self.graph = _with_paths(graph_module)
        holders = graph_module.graph.find_nodes(op="placeholder")
        self._states = {place: name for place, holder in enumerate(holders) if (name := _state_name(holder))}
        self._sizes = _sizes(holders)
        self._inputs = [place for place in range(len(holders)) if place not in {**self._states, **self._sizes}]
        self.take(example_inputs)

    def take(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Put the parameters and buffers among dynamo's arguments in their places; the other ones are the inputs."""
        for place, name in self._states.items():
            owner, attribute = self._owner(name)
            group = owner._parameters if isinstance(arguments[place], nn.Parameter) else owner._buffers
            group[attribute] = arguments[place]
        return tuple([arguments[place] for place in self._inputs])

    def forward(self, *inputs: Any) -> Any:
        """What the graph returns. Its nodes pass on where in the user's code they come from."""
        arguments = dict(zip(self._inputs, inputs, strict=True))
        for place, name in self._states.items():
            owner, attribute = self._owner(name)
            arguments[place] = getattr(owner, attribute)
        for place, (tensor, dim) in self._sizes.items():
            arguments[place] = arguments[tensor].shape[dim]
        with fx.traceback.preserve_node_meta():
            return fx.Interpreter(self.graph).run(*[arguments[place] for place in sorted(arguments)])

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        owner: nn.Module = self
        *path, attribute = name.split(".")
        for step in path:
            owner = owner._modules.setdefault(step, nn.Module())  # type: ignore[assignment]
        return owner, attribute


def _with_paths(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The graph, its nodes naming modules as the model does: ``layers.0``, where dynamo says ``L['self'].layers.0``."""
    for node in graph_module.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        node.meta["nn_module_stack"] = {key: (_SELF.sub("", path), kind) for key, (path, kind) in stack.items()}
    return graph_module


def _state_name(holder: fx.Node) -> str | None:
    """``layers.0.weight`` where a placeholder is a lifted parameter or buffer, else None."""
    source = getattr(holder, "_dynamo_source", None)
    name = getattr(source, "name", "")
    text = str(name() if callable(name) else name)  # a method up to torch 2.9
    return ".".join(_STEPS.findall(text)) if _STATE.search(text) else None


def _sizes(holders: Sequence[fx.Node]) -> dict[int, tuple[int, int]]:
    """Place of a size among the arguments → a tensor and its dimension of that size."""
    values = [holder.meta.get("example_value") for holder in holders]
    known = {
        str(size): (place, dim)
        for place, value in enumerate(values)
        if isinstance(value, Tensor)
        for dim, size in enumerate(value.shape)
        if isinstance(size, torch.SymInt)
    }
    return {
        place: known[str(value)]
        for place, value in enumerate(values)
        if isinstance(value, torch.SymInt) and str(value) in known
    }


def _options(given: Mapping[str, Any]) -> Options:
    known = [field.name for field in dataclasses.fields(Options)]
    for name in given:
        if name not in known:
            raise OptionError(
                f"there is no option {name}", where="torch.compile(options)", fix="choose from " + ", ".join(known)
            )
    return Options(**given)
