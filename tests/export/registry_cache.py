"""Lets torch's exporter read the source of onnxscript's functions once for all exports of a process, not at each."""

from __future__ import annotations

import functools
from typing import Any

from onnxscript._internal import values

__all__ = ["parse_functions_once"]


@functools.cache
def parse_functions_once() -> None:
    """Keep what was parsed: some 500 functions, a third of a second at every export; it depends on nothing else."""
    parse: Any = values.TracedOnnxFunction.function_ir.fget
    kept: dict[int, tuple[Any, Any]] = {}

    def parsed(function: Any) -> Any:
        if id(function) not in kept:
            kept[id(function)] = (parse(function), function)  # the function too, so that its id stays its own
        return kept[id(function)][0]

    values.TracedOnnxFunction.function_ir = property(parsed)  # type: ignore[assignment,method-assign]
