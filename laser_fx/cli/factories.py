"""``package.module:function``: imported and called, with a word about which part failed."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from laser_fx.cli.blame import blamed
from laser_fx.errors import InputError

__all__ = ["Made", "made"]

_ZOO = "zoo."
_NAME_IT = "write it as package.module:function, or zoo.NAME for a model of the zoo"


@dataclass(frozen=True)
class Made:
    """What a factory returned.

    Args:
        model: the model.
        inputs: its example inputs, a lone one as a tuple; None where the factory returned the model alone.
    """

    model: nn.Module
    inputs: tuple[Any, ...] | None


def made(name: str, *, batch: int | None = None, seed: int = 0, batch_is_used: bool = False) -> Made:
    """What a factory makes.

    Args:
        name: ``package.module:function``, or ``zoo.attention``. A model, or a class of one without arguments, will do.
        batch: for a factory that has an argument of this name.
        seed: of torch's random numbers, and for a factory that has an argument of this name.
        batch_is_used: whether something else has a use for ``batch``, so that the factory need not.

    Raises:
        InputError: which part of the name is wrong, which import inside of the module failed, where the factory did,
            or that it returned something else.
    """
    factory = _zoo(name) if _is_zoo(name) else _found(name)
    torch.manual_seed(seed)
    # What it prints is not among the results: these may be JSON.
    with contextlib.redirect_stdout(sys.stderr):
        returned = factory if isinstance(factory, nn.Module) else _called(factory, name, batch, seed, batch_is_used)
    if isinstance(returned, nn.Module):
        return Made(returned, None)
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], nn.Module):
        model, inputs = returned
        return Made(model, inputs if isinstance(inputs, tuple) else (inputs,))
    fix = "return (model, example_inputs), the inputs as a tuple, or the model alone"
    raise InputError(f"the factory returned {_kind(returned)}", where=name, fix=fix)


def _is_zoo(name: str) -> bool:
    return name.startswith(_ZOO) and ":" not in name


def _zoo(name: str) -> Callable[..., object]:
    from laser_fx.zoo.examples import EXAMPLES  # the other factories do without the zoo

    known = name.removeprefix(_ZOO)
    if known not in EXAMPLES:
        raise InputError(f"the zoo has no {known!r}", where=name, fix="choose among " + ", ".join(sorted(EXAMPLES)))
    return EXAMPLES[known]


def _found(name: str) -> Any:
    """The factory itself."""
    module_name, _, path = name.partition(":")
    parts = module_name.split(".")
    if module_name.endswith(".py") or "/" in module_name:
        as_module = ".".join(Path(module_name).with_suffix("").parts)
        fix = f"write {as_module}:{path or 'function'}, in the folder that the path starts from"
        raise InputError("the factory is named by a file, not by a module", where=name, fix=fix)
    if not path or not all(part.isidentifier() for part in (*parts, *path.split("."))):
        raise InputError("the factory has no name", where=name, fix=_NAME_IT)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: a model in the current folder is found
    found: Any = _imported(module_name, name)
    for attribute in path.split("."):
        found = _attribute(found, attribute, name)
    if not callable(found):
        fix = "name a function, a class or an instance of torch.nn.Module"
        raise InputError(f"{path} is {_kind(found)}, and cannot be called", where=name, fix=fix)
    return found


def _imported(module_name: str, name: str) -> Any:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):
            raise _missing(str(error.name), name) from error
        raise _broken(module_name, name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module_name, name, error) from error


def _missing(missing: str, name: str) -> InputError:
    """A part of the name itself."""
    package, _, module = missing.rpartition(".")
    fix = "install it, or call laser-fx in the folder that it is in"
    if not package:
        kind = "package" if "." in name.partition(":")[0] else "module"
        return InputError(f"there is no {kind} {missing}", where=name, fix=fix)
    holds = sys.modules.get(package)
    if holds is not None and not hasattr(holds, "__path__"):
        return InputError(f"{package} is a module, not a package: it has no module {module}", where=name, fix=_NAME_IT)
    return InputError(f"the package {package} has no module {module}", where=name, fix=fix)


def _broken(module_name: str, name: str, error: BaseException) -> InputError:
    what = f"importing {module_name} failed: {blamed(error).sentence}"
    return InputError(what, where=blamed(error).line or name, fix="mend the module, or install what it imports")


def _attribute(owner: Any, attribute: str, name: str) -> Any:
    try:
        return getattr(owner, attribute)
    except AttributeError as error:
        near = difflib.get_close_matches(attribute, [known for known in dir(owner) if not known.startswith("_")])
        fix = f"did you mean {' or '.join(near)}?" if near else "name a function of that module"
        kind = "" if inspect.ismodule(owner) else "the class " if inspect.isclass(owner) else f"the {_kind(owner)} "
        what = f"{kind}{getattr(owner, '__name__', owner)} has no function {attribute}"
        raise InputError(what, where=name, fix=fix) from error
    except Exception as error:  # a module may import its parts when they are asked for
        what = f"taking {attribute} of it failed: {blamed(error).sentence}"
        raise InputError(what, where=blamed(error).line or name, fix="mend it, or install what it imports") from error


def _called(factory: Callable[..., object], name: str, batch: int | None, seed: int, batch_is_used: bool) -> object:
    takes = _parameters(factory)
    given = {key: value for key, value in (("batch", batch), ("seed", seed)) if key in takes and value is not None}
    if batch is not None and "batch" not in takes and not batch_is_used:
        raise InputError("the factory takes no batch", where=name, fix="give it an argument of that name, or --inputs")
    needed = [key for key, p in takes.items() if p.default is p.empty and key not in given]
    if needed:
        fix = "give it a default: a factory is called without arguments, or with batch and seed"
        raise InputError(f"the factory needs the argument {needed[0]!r}", where=name, fix=fix)
    try:
        return factory(**given)
    except (Exception, SystemExit) as error:
        what = f"the factory failed: {blamed(error).sentence}"
        raise InputError(what, where=blamed(error).line or name, fix="mend it: it was called by itself") from error


def _parameters(factory: Callable[..., object]) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some builtins have none
        return {}
    gathering = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in parameters.items() if p.kind not in gathering}


def _kind(value: object) -> str:
    return type(value).__name__
