"""Where in the model's code a loop stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import fx

__all__ = ["loop_source", "module_path", "node_line", "parting_line"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_OURS = Path(__file__).parents[1]
_ROOMS = (
    "cache.py",
    "call.py",
    "capture.py",
    "compiled.py",
    "compiler.py",
    "programs.py",
    "structured.py",
    "traced.py",
)
_HIDDEN = (str(Path(torch.__file__).parent), *(str(_OURS / room) for room in _ROOMS))

_WRAPPER = "model."
"""The captured graph is that of a wrapper, which holds the model under this name."""

Frame = tuple[str, int, str]


def loop_source(first: Sequence[fx.Node], second: Sequence[fx.Node]) -> str | None:
    """``file:line`` of a loop, from the call stacks of its first two steps.

    All its nodes share the frames down to the function in which it stands. From there upwards, the first ``for`` or
    ``while`` around all of the lines is the loop; where there is none (unrolled by hand, or its last step written
    apart) it is the `parting_line`.
    """
    stacks = _stacks(first, second)
    depth = _shared_depth(stacks) if stacks else -1
    for level in range(depth, -1, -1):
        here = [stack[level] for stack in stacks if len(stack) > level]
        if len({(file, function) for file, _, function in here}) == 1:
            line = _loop_around(here[0][0], [line for _, line, _ in here])
            if line is not None:
                return f"{_short(here[0][0])}:{line}"
    return parting_line(first, second)


def parting_line(first: Sequence[fx.Node], second: Sequence[fx.Node]) -> str | None:
    """``file:line`` of the first line at which the nodes of two steps part."""
    stacks = _stacks(first, second)
    if not stacks:
        return None
    depth = _shared_depth(stacks)
    file, line, _ = min((stack[min(depth, len(stack) - 1)] for stack in stacks), key=lambda frame: frame[1])
    return f"{_short(file)}:{line}"


def node_line(node: fx.Node) -> str | None:
    """``file:line`` of the model's code that called the operator."""
    frames = _frames(node)
    return f"{_short(frames[-1][0])}:{frames[-1][1]}" if frames else None


def module_path(node: fx.Node) -> str:
    """Path in the model of the module whose forward called the operator; empty for the model's own forward."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = f"{stack[-1][0]}." if stack else ""
    return path.removeprefix(_WRAPPER).removesuffix(".")


def _stacks(first: Sequence[fx.Node], second: Sequence[fx.Node]) -> list[list[Frame]]:
    return [frames for frames in map(_frames, [*first, *second]) if frames]


def _shared_depth(stacks: Sequence[Sequence[Frame]]) -> int:
    """The first level at which the stacks part."""
    depth = 0
    while all(len(s) > depth + 1 for s in stacks) and len({s[depth] for s in stacks}) == 1:
        depth += 1
    return depth


def _loop_around(file: str, lines: Sequence[int]) -> int | None:
    """Line of the innermost loop statement around all the lines."""
    first, last = min(lines), max(lines)
    around = [start for start, begin, end in _loop_statements(file) if begin <= first and last <= end]
    return max(around, default=None)


@lru_cache(maxsize=64)
def _loop_statements(file: str) -> tuple[tuple[int, int, int], ...]:
    """(line of the statement, first and last line of its body) of every loop in a file; empty if it cannot be read."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ()
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
    return tuple((node.lineno, node.body[0].lineno, node.body[-1].end_lineno or node.lineno) for node in loops)


def _frames(node: fx.Node) -> list[Frame]:
    found = _FRAME.finditer(node.meta.get("stack_trace") or "")
    frames = [(m["file"], int(m["line"]), m["function"]) for m in found]
    return [frame for frame in frames if not frame[0].startswith(_HIDDEN)]


def _short(file: str) -> str:
    """The last two parts of a path: enough to find it, nothing of the machine."""
    return "/".join(Path(file).parts[-2:])
