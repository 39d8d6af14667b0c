"""``LASER_FX_DUMP=dir``: the graph after each pass, as Python to read.

Each program has a folder of its own, ``dir/TRM_1``, with one file for each pass, ``02_reroll.py``, headed by the pass
and what it did. Nothing is written where the variable is not set. The same passes are told of in the log, as ``pass``.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx
from torch.utils.weak import WeakIdKeyDictionary

from laser_fx.errors import OutputPathError
from laser_fx.events import is_told, tell
from laser_fx.files import write_text
from laser_fx.marks import printable
from laser_fx.readable import readable
from laser_fx.rolled import RolledLoop

__all__ = ["VARIABLE", "passed"]

VARIABLE = "LASER_FX_DUMP"

_FIX = f"set {VARIABLE} to a folder that can be written, or unset it"


@dataclass
class _Folder:
    path: Path
    files: int = 0


_folders = WeakIdKeyDictionary()
"""Captured graph → where its program is written: what is made of it later comes into the same folder."""


def passed(
    captured: fx.GraphModule, made_by: str, graph_module: fx.GraphModule, model: str, notes: Sequence[str] = ()
) -> None:
    """Tell of a graph that a pass has made, to those who asked.

    Args:
        captured: the graph that the program was captured as: what tells one program from another.
        made_by: the pass.
        graph_module: what it made.
        model: name of the model's class.
        notes: what the pass did, one sentence each.

    Raises:
        OutputPathError: the folder cannot be made, or a file cannot be written in it.
    """
    folder = os.environ.get(VARIABLE)
    if folder:
        _write(Path(folder), captured, made_by, graph_module, model, notes)
    if is_told(logging.DEBUG):
        nodes, loops = _size(graph_module)
        sentence = "%s: %s made %d nodes in %d loops"
        fields = {"model": model, "made_by": made_by, "nodes": nodes, "loops": loops}
        tell(logging.DEBUG, "pass", sentence, *fields.values(), **fields)


def _write(
    base: Path, captured: fx.GraphModule, made_by: str, graph_module: fx.GraphModule, model: str, notes: Sequence[str]
) -> None:
    folder = _folders.get(captured)
    if folder is None or folder.path.parent != base:
        folder = _folders[captured] = _Folder(_new_folder(base, re.sub(r"\W", "_", model)))
    folder.files += 1
    nodes, loops = _size(graph_module)
    head = [f"{made_by}: pass {folder.files} of {model}; {nodes} nodes, {loops} loops", *notes]
    text = "".join(f"# {printable(line)}\n" for line in head)
    path = folder.path / f"{folder.files:02}_{made_by}.py"
    write_text(path, f"{text}\n{readable(graph_module)}", overwrite=False)


def _new_folder(base: Path, name: str) -> Path:
    """A folder that no other program has, of this process or another one."""
    for number in itertools.count(1):
        path = base / f"{name}_{number}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError as error:
            if not path.exists() or not base.is_dir():
                raise _refused(path, error) from error
        except OSError as error:
            raise _refused(path, error) from error
    raise AssertionError("the numbers never end")


def _refused(path: Path, error: OSError) -> OutputPathError:
    return OutputPathError(
        f"the folder of {VARIABLE} cannot be made: {error.strerror or error}", where=str(path), fix=_FIX
    )


def _size(graph_module: fx.GraphModule) -> tuple[int, int]:
    """Nodes and loops of a graph, those inside of loops included."""
    loops = [module for module in graph_module.modules() if isinstance(module, RolledLoop)]
    nodes = len(graph_module.graph.nodes) + sum(len(loop.body.graph.nodes) for loop in loops)
    return nodes, len(loops)
