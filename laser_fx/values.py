"""Values and code as data that compares: the leaves of a model's `Fingerprint`."""

from __future__ import annotations

import dis
import enum
import sysconfig
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["ClassState", "Reader", "names_read", "shown"]

_ATOMS = frozenset(
    {int, str, bool, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, range}
)
_INEXACT = frozenset({float, complex})
_SEQUENCES = (tuple, list, set, frozenset)
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_COMPUTED = frozenset({"getattr", "hasattr", "vars", "__dict__", "attrgetter", "eval", "exec", "__getattribute__"})
_CALLED = frozenset(
    {"__call__", "__getattr__", "__getattribute__", "__getitem__", "__iter__", "__len__", "__contains__"}
)
"""Methods with such names that a forward may call; `__init__` has run."""
_LONGEST, _DEEPEST, _MOST = 1000, 3, 4000


class Same:
    """Compares by identity, and keeps alive only what cannot be held weakly."""

    __slots__ = ("_ref",)

    def __init__(self, value: Any) -> None:
        try:
            self._ref: Any = weakref.ref(value)
        except TypeError:
            self._ref = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._ref()
        return isinstance(other, Same) and mine is not None and mine is other._ref()

    __hash__ = None  # type: ignore[assignment]


class FunctionState(NamedTuple):
    """A function: its code, and the values that it finds around it."""

    code: types.CodeType
    around: tuple[Any, ...]


class ClassState(NamedTuple):
    """A class of modules: what stands in it and in the classes that it inherits from."""

    kind: type
    members: tuple[tuple[str, Any], ...]

    def difference(self, new: ClassState) -> str | None:
        """The first thing that is not as it was, in words."""
        old, now = dict(self.members), dict(new.members)
        return next((f"{self.kind.__name__}.{n} changed" for n in {**old, **now} if old.get(n) != now.get(n)), None)


class Reader:
    """Reads values and classes for one fingerprint. What it met once, it does not walk again.

    Args:
        registered: address → number of the model's own modules and tensors: their state is noted elsewhere.
    """

    def __init__(self, registered: Mapping[int, int] | None = None) -> None:
        self._registered = registered or {}
        self._seen: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._kept: list[Any] = []  # so that no address is used twice while this one is at work
        self._depth = 0

    def value(self, value: Any) -> tuple[Any, ...]:
        """A tuple that equals another one where no graph could tell the two values apart; it ends in the value."""
        kind = type(value)
        if kind in _ATOMS:
            return kind, value
        if kind in _INEXACT:
            return kind, repr(value)  # tells -0.0 from 0.0, and a NaN is itself
        if isinstance(value, enum.Enum):
            return kind, value.name
        if isinstance(value, (type, types.ModuleType)):
            return (value,)
        if id(value) in self._registered:
            return kind, self._registered[id(value)]
        key = id(value), self._depth
        if key not in self._seen:
            if len(self._seen) > _MOST:
                return kind, Same(value)
            self._kept.append(value)
            self._seen[key] = ("again",)  # for what holds itself
            self._seen[key] = self._compound(kind, value)
        return self._seen[key]

    def class_state(self, kind: type) -> ClassState:
        """The code and the plain attributes of a class."""
        return ClassState(kind, tuple(_members(kind, self)))

    def _compound(self, kind: type, value: Any) -> tuple[Any, ...]:
        if kind is types.FunctionType:  # first, since there are most of them
            return kind, self._function(value)
        if isinstance(value, Tensor):
            return kind, value.dtype, value.shape, value.device, _version(value), Same(value)
        if isinstance(value, nn.Module):
            return kind, Same(value)
        if isinstance(value, types.MethodType):
            return kind, self.value(value.__func__), Same(value.__self__)
        if isinstance(value, (staticmethod, classmethod)):
            return kind, self.value(value.__func__)
        if isinstance(value, property):
            return kind, self.value(value.fget)
        if isinstance(value, partial):
            return kind, self.value(value.func), self.value(value.args), self.value(value.keywords)
        if isinstance(value, (*_SEQUENCES, dict)) and len(value) > _LONGEST:
            return kind, len(value), Same(value)
        if isinstance(value, dict):
            return kind, *((self.value(key), self.value(entry)) for key, entry in value.items())
        if isinstance(value, _SEQUENCES):
            return kind, *map(self.value, value)
        if _is_frozen(kind) and self._depth < _DEEPEST:
            return kind, self._fields(value)  # so that a copy of a model has its configuration
        return kind, self._fields(value), Same(value)

    def _fields(self, value: Any) -> tuple[Any, ...]:
        """The attributes of an object, such as a model's configuration."""
        fields = getattr(value, "__dict__", None)
        if self._depth >= _DEEPEST:
            return ()
        held = [*(fields.items() if isinstance(fields, dict) else ()), *_slots(value)]
        self._depth += 1
        try:
            return tuple([(name, self.value(entry)) for name, entry in held])
        finally:
            self._depth -= 1

    def _function(self, function: types.FunctionType) -> FunctionState:
        code = function.__code__
        if code.co_filename.startswith(_INSTALLED):
            return FunctionState(code, ())
        around = [function.__defaults__, function.__kwdefaults__]
        around += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        around += _globals_of(code, function.__globals__)
        return FunctionState(code, tuple([self.value(entry) for entry in around]))


def _is_frozen(kind: type) -> bool:
    """Whether an object of this class is what its fields are."""
    parameters = getattr(kind, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds in slots, as a dataclass with ``slots=True`` does."""
    for kind in type(value).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else tuple(names):
            if not name.startswith("__") and hasattr(value, name):
                yield name, getattr(value, name)


def shown(state: tuple[Any, ...]) -> str | None:
    """What `Reader.value` noted, as one would write it; None where it is no plain value, or a long one."""
    kind, value = state[0], state[-1]
    text = value if kind in _INEXACT else repr(value)
    return text if len(state) == 2 and kind in _ATOMS | _INEXACT and len(text) < 50 else None


def names_read(states: Iterable[Any]) -> frozenset[str] | None:
    """Every name that the functions in some states read, and every string in them; None where they compute names."""
    names = frozenset[str]().union(*(_words(code) for code in _codes(tuple(states))))
    return None if names & _COMPUTED else names


def _codes(state: Any) -> Iterator[types.CodeType]:
    if isinstance(state, FunctionState):
        yield state.code
    if isinstance(state, tuple):
        for entry in state:
            yield from _codes(entry)


@lru_cache(maxsize=4096)
def _words(code: types.CodeType) -> frozenset[str]:
    """What a piece of code and the functions inside it read by name, and the strings in them."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    strings = [constant for constant in code.co_consts if isinstance(constant, str)]
    reads = [str(step.argval) for step in dis.get_instructions(code) if step.opname.startswith("LOAD_")]
    return frozenset[str]().union(reads, strings, *map(_words, inner))


def _members(kind: type, reader: Reader) -> Iterator[tuple[str, Any]]:
    for owner in kind.__mro__:
        if owner in (nn.Module, object):
            continue
        for name, member in vars(owner).items():
            if not name.startswith("__") or name in _CALLED:
                yield name, reader.value(member)


def _globals_of(code: types.CodeType, found: dict[str, Any]) -> Iterator[Any]:
    """The globals that a function names, and what it names in modules among them."""
    words = _words(code)
    for name in code.co_names:
        if name not in found:
            continue
        value = found[name]
        if not isinstance(value, types.ModuleType):
            yield value
        elif not (getattr(value, "__file__", None) or _INSTALLED[0]).startswith(_INSTALLED):
            yield from [vars(value)[word] for word in sorted(words & vars(value).keys())]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
