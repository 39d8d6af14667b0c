"""What a model's graph depends on besides its inputs, in a form that two moments can be compared in.

A captured graph has Python's decisions burnt in: which modules there are, what code they run, what plain attributes it
reads. A `Fingerprint` notes them, so that a graph is never used for a model that has become another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _hooks

from laser_fx.values import ClassState, Reader, names_read, shown

__all__ = ["Fingerprint", "fingerprint"]

_INTERNAL = frozenset({*nn.Module().__dict__, "_compiled_call_impl", "__class__"})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


class TensorState(NamedTuple):
    """A parameter or buffer, without its values: programs read those anew at every call.

    Args:
        name: in its module.
        alias: number of the first tensor in the model that is this very one, or has its storage: tied weights.
    """

    name: str
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device
    requires_grad: bool
    alias: tuple[int, int]


Child = tuple[str, int | None]
"""Name and place in the walk of a submodule."""


class ModuleState(NamedTuple):
    """One module."""

    kind: type
    training: bool
    children: tuple[Child, ...]
    attributes: tuple[tuple[str, Any], ...]
    tensors: tuple[TensorState | None, ...]
    hooks: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The state of a model that its graphs depend on; equal ones have equal graphs for equal inputs.

    Args:
        modules: every module, breadth first.
        classes: the code of their classes.
        process: what torch itself was set to: default dtype and device, hooks on all modules.
    """

    modules: tuple[ModuleState, ...]
    classes: tuple[ClassState, ...]
    process: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        return self.identical(other) or self.difference(other) is None

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def trainable(self) -> bool:
        """Whether any parameter or buffer asks for a gradient."""
        return any(tensor.requires_grad for module in self.modules for tensor in module.tensors if tensor)

    @cached_property
    def backward_hooks(self) -> bool:
        """Whether a module has a hook that wants to be called during backward, which a graph has no place for."""
        return any("backward" in name for module in self.modules for name, _ in module.hooks)

    @cached_property
    def named(self) -> frozenset[str] | None:
        """Every name that the model's code reads; None where it computes some."""
        return names_read([*self.classes, *((module.attributes, module.hooks) for module in self.modules)])

    def identical(self, other: Fingerprint) -> bool:
        """Whether nothing at all differs; quicker to say than whether a graph can tell."""
        return self.modules == other.modules and self.classes == other.classes and self.process == other.process

    def difference(self, new: Fingerprint) -> str | None:
        """The first thing that is not as it was, in words; None where no graph can tell.

        An attribute that no code reads, such as a trainer's step count, is no difference.
        """
        return next(self._differences(new), None)

    def _differences(self, new: Fingerprint) -> Iterator[str]:
        yield from _process_differences(self.process, new.process)
        if self.modules != new.modules:
            pairs = [*zip(_paths(new.modules), self.modules, new.modules, strict=False)]
            for path, old, now in pairs:
                yield from _tree_differences(path, old, now)
            for path, old, now in pairs:
                yield from _module_differences(path, old, now, new.named)
        known = {state.kind: state for state in self.classes}
        yield from filter(None, (known[state.kind].difference(state) for state in new.classes if state.kind in known))


def fingerprint(model: nn.Module) -> Fingerprint:
    """Note what graphs of ``model`` depend on; it costs a few microseconds a module.

    It holds, for every module in the tree: its class and the code of all its methods with their defaults, closures and
    the globals that they name (functions, numbers and small containers, through helper functions and modules of the
    user's own), its plain attributes by value (containers, dataclasses and other objects three deep), its training
    flag, hooks, children, and of each tensor the dtype, shape, device, ``requires_grad`` and what it is tied to.

    It cannot see: numbers in place inside a NumPy array or in a container of more than a thousand entries, what
    installed packages and the standard library read besides their modules' own attributes and code, files, the
    environment and the clock, and attributes of objects more than three deep. Call `laser_fx.cache.clear` and compile
    again after changing one of those.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> before = fingerprint(model)
    >>> before == fingerprint(model)
    True
    >>> model[1].inplace = True
    >>> before.difference(fingerprint(model))
    '1.inplace was False, is True'
    """
    modules = [model]
    registered = {id(model): 0}
    links = [_children(module, modules, registered) for module in modules]
    aliases = _Aliases(registered)
    tensors = [aliases.of(module) for module in modules]
    reader = Reader(registered)
    states = [
        _module_state(module, children, own, reader)
        for module, children, own in zip(modules, links, tensors, strict=True)
    ]
    kinds = dict.fromkeys(map(type, modules))
    return Fingerprint(tuple(states), tuple([reader.class_state(kind) for kind in kinds]), _process_state(reader))


def _children(module: nn.Module, modules: list[nn.Module], places: dict[int, int]) -> tuple[Child, ...]:
    """The places of a module's children; those that are new are put at the end of ``modules``."""
    children = []
    for name, child in module._modules.items():
        if child is not None and id(child) not in places:
            places[id(child)] = len(modules)
            modules.append(child)
        children.append((name, None if child is None else places[id(child)]))
    return tuple(children)


def _module_state(
    module: nn.Module, children: tuple[Child, ...], tensors: tuple[TensorState | None, ...], reader: Reader
) -> ModuleState:
    state = module.__dict__
    return ModuleState(
        type(module),
        module.training,
        children,
        tuple([(name, reader.value(state[name])) for name in state if name not in _INTERNAL]),
        tensors,
        tuple([(name, reader.value(hook)) for name in _HOOKS if state[name] for hook in state[name].values()]),
    )


class _Aliases:
    """Numbers tensors in the order in which they are met, so that tied ones are seen to be."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers
        self._storages: dict[int, int] = {}

    def of(self, module: nn.Module) -> tuple[TensorState | None, ...]:
        """The parameters and buffers of one module."""
        named = [*module._parameters.items(), *module._buffers.items()]
        return tuple([None if tensor is None else self._state(name, tensor) for name, tensor in named])

    def _state(self, name: str, tensor: Tensor) -> TensorState:
        own = self._numbers.setdefault(id(tensor), len(self._numbers))
        shared = self._storages.setdefault(_address(tensor) or id(tensor), own)
        return TensorState(name, tensor.dtype, tensor.shape, tensor.device, tensor.requires_grad, (own, shared))


def _address(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # a tensor without storage: fake, or wrapped
        return 0


def _process_state(reader: Reader) -> tuple[Any, ...]:
    hooks = [getattr(_hooks, name) for name in _GLOBAL_HOOKS]
    return (
        ("default dtype", torch.get_default_dtype()),
        ("default device", torch.get_default_device()),
        ("hooks on all modules", tuple([reader.value(hook) for group in hooks if group for hook in group.values()])),
    )


def _process_differences(old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[str]:
    for (name, was), (_, now) in zip(old, new, strict=True):
        if was != now:
            yield f"the {name} changed" if isinstance(now, tuple) else f"the {name} was {was}, is {now}"


def _paths(modules: tuple[ModuleState, ...]) -> list[str]:
    paths = [""] + [""] * (len(modules) - 1)
    for place, module in enumerate(modules):
        for name, child in module.children:
            if child is not None and child > place and not paths[child]:
                paths[child] = f"{paths[place]}.{name}".lstrip(".")
    return paths


def _tree_differences(path: str, old: ModuleState, new: ModuleState) -> Iterator[str]:
    here = path or new.kind.__name__
    if old.kind is not new.kind:
        yield f"{here} was {old.kind.__name__}, is {new.kind.__name__}"
    if old.children != new.children:
        yield f"the submodules of {here} changed"


def _module_differences(path: str, old: ModuleState, new: ModuleState, named: frozenset[str] | None) -> Iterator[str]:
    here = path or new.kind.__name__
    if old.training != new.training:
        yield f"{here}.training was {old.training}, is {new.training}"
    attributes = dict(old.attributes), dict(new.attributes)
    yield from _attribute_differences(here, *attributes, lambda name: _counts(name, new.kind, named))
    for was, now in zip(old.tensors, new.tensors, strict=False):
        if was != now:
            yield _tensor_difference(path, was, now)
    if len(old.tensors) != len(new.tensors):
        yield f"{here} had {len(old.tensors)} tensors, has {len(new.tensors)}"
    if old.hooks != new.hooks:
        yield f"the hooks of {here} changed"


def _counts(name: str, kind: type, named: frozenset[str] | None) -> bool:
    """Whether an attribute can reach a graph: something reads it by name, or it hides what the class has."""
    return named is None or name in named or hasattr(kind, name)


def _attribute_differences(
    here: str, old: dict[str, Any], new: dict[str, Any], counts: Callable[[str], bool]
) -> Iterator[str]:
    for name in filter(counts, {**old, **new}):
        if name not in old or name not in new:
            yield f"{here}.{name} was {'removed' if name in old else 'added'}"
        elif old[name] != new[name]:
            yield f"{here}.{name} {_change(old[name], new[name])}"


def _change(old: tuple[Any, ...], new: tuple[Any, ...]) -> str:
    was, now = shown(old), shown(new)
    return "changed" if was is None or now is None else f"was {was}, is {now}"


def _tensor_difference(path: str, old: TensorState | None, new: TensorState | None) -> str:
    name = f"{path}.{(new or old).name}".lstrip(".")  # type: ignore[union-attr]
    if old is None or new is None:
        return f"{name} was {'None' if old is None else 'a tensor'}, is {'None' if new is None else 'a tensor'}"
    for field in ("name", "dtype", "shape", "device", "requires_grad"):
        was, now = getattr(old, field), getattr(new, field)
        if was != now:
            return f"{name} {field} was {_short(was)}, is {_short(now)}"
    return f"{name} is tied to other tensors than before"


def _short(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
