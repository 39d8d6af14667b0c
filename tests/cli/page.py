"""Writes docs/cli.md from the commands themselves: ``python -m tests.cli.page``; a test holds it to that."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from laser_fx.cli import app
from laser_fx.cli.told import Ends
from laser_fx.zoo.examples import EXAMPLES

__all__ = ["PAGE", "commands", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEAD = Path(__file__).with_name("page_head.md")


def commands() -> dict[str, Callable[..., None]]:
    """Name → function of every command, in the order of the help."""
    functions = [(info.name, info.callback) for info in app.registered_commands]
    return {name or function.__name__: function for name, function in functions if function is not None}


def page() -> str:
    """The whole page."""
    head = HEAD.read_text("utf-8").replace("ZOO", ", ".join(f"`{name}`" for name in sorted(EXAMPLES)))
    codes = "".join(f"| {end.value} | {end.meaning} |\n" for end in Ends)
    parts = "".join("".join(_command(name, function)) for name, function in commands().items())
    return f"{head}\n## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}\n## Commands\n{parts}"


def _command(name: str, function: Callable[..., None]) -> Iterator[str]:
    yield f"\n### laser-fx {name}\n\n{_paragraphs(inspect.getdoc(function) or '')}\n\n"
    yield "| | default | |\n|---|---|---|\n"
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, info = get_args(hints[parameter.name])
        names = _names(parameter.name, kind, info)
        yield f"| {names} | {_default(parameter, info)} | {_escaped(info.help)} |\n"


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _names(name: str, kind: Any, info: Any) -> str:
    if type(info).__name__ == "ArgumentInfo":
        return f"`{info.metavar or name.upper()}`"
    # Typer takes the first declaration for the default where it is given alone.
    option = next((word for word in (info.default, *(info.param_decls or ())) if str(word).startswith("--")), None)
    if kind is bool and option is None:
        return f"`--{_dashed(name)}`, `--no-{_dashed(name)}`"
    return f"`{option or '--' + _dashed(name)}`" + (f" {_value(kind, info)}" if kind is not bool else "")


def _value(kind: Any, info: Any) -> str:
    plain = next((k for k in get_args(kind) if k is not type(None)), kind)
    plain = get_args(plain)[0] if get_origin(plain) is list else plain
    if isinstance(plain, type) and issubclass(plain, Enum):
        return ", ".join(f"`{choice.value}`" for choice in plain)
    return f"`{info.metavar or {str: 'TEXT', int: 'INTEGER', float: 'NUMBER', Path: 'PATH'}[plain]}`"


def _default(parameter: inspect.Parameter, info: Any) -> str:
    if parameter.default is parameter.empty:
        return "needed"
    if parameter.default is None or parameter.default is False:
        return ""
    return "on" if parameter.default is True else f"`{getattr(parameter.default, 'value', parameter.default)}`"


def _dashed(name: str) -> str:
    return re.sub("_", "-", name)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
