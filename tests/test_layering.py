"""Nobody imports upward: the floors of CONTRIBUTING.md, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "laser_fx"
FLOORS = (
    {
        "aside",
        "trees",
        "dump",
        "errors",
        "events",
        "files",
        "intervals",
        "loops",
        "markers",
        "marks",
        "nodes",
        "progress",
        "subspace",
        "readable",
        "rolled",
        "sentences",
        "swaps",
    },
    {
        "options",
        "ops",
        "structured",
        "traced",
        "cut_structured",
        "inline_regions",
        "calibration",
        "call",
        "capture",
        "captured",
        "program",
        "unseen",
        "values",
        "fingerprint",
        "folded_ops",
    },
    {"passes", "memory"},
    {"export", "reporting"},
    {"alarms", "calibrator", "callbacks", "compiler", "compiled", "standin", "programs", "cache", "reasons", "backend"},
    {"bench", "cli", "demo"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TOP = len(FLOORS) - 1
FACE = "__init__"  # `from laser_fx import compile` goes through the compiler


def room_of(path: Path, package: Path = PACKAGE) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """Rooms of laser_fx that a module imports, wherever in the module it does so."""
    return {room for node in ast.walk(ast.parse(source)) for room in _rooms(node)}


def _rooms(node: ast.AST) -> Iterator[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "laser_fx":
        names = [f"laser_fx.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    for name in names:
        package, _, rest = name.partition(".")
        if package == "laser_fx":
            room = rest.partition(".")[0]
            yield room if room in FLOOR_OF or room == "zoo" else FACE


def complaint(room: str, imported: str) -> str | None:
    """Why ``room`` must not import ``imported``, or None where it may."""
    if imported == room or room == FACE:
        return None
    if imported == "zoo":
        return None if FLOOR_OF.get(room) == TOP else "only cli, demo and the tests use the zoo"
    floor = FLOOR_OF.get(room, TOP)  # the zoo may use what a model's author may use
    if imported == FACE:
        return None if floor == TOP else "the face of the package is above every room"
    return "upward" if FLOOR_OF[imported] > floor else None


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_a_floor() -> None:
    known = {*FLOOR_OF, "zoo", "__init__", "__main__"}
    assert {room_of(path) for path in modules()} <= known


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_upward(path: Path) -> None:
    room = room_of(path)
    complaints = {other: complaint(room, other) for other in imported_rooms(path.read_text(encoding="utf-8"))}
    assert not {other: why for other, why in complaints.items() if why}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("errors", "import laser_fx.compiler"),
        ("passes", "from laser_fx.reporting.report import Report"),
        ("passes", "from laser_fx import compiler"),
        ("capture", "def late():\n    from laser_fx import compile"),
        ("export", "from laser_fx.zoo import trm"),
    ],
)
def test_the_check_sees_an_upward_import(room: str, source: str) -> None:
    assert any(complaint(room, other) for other in imported_rooms(source))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("export", "from laser_fx.passes.detect import detect"),
        ("reporting", "from laser_fx import loops"),
        ("cli", "import laser_fx"),
        ("zoo", "import laser_fx"),
        ("cli", "from laser_fx.zoo import trm"),
        ("errors", "import torch"),
    ],
)
def test_the_check_lets_others_pass(room: str, source: str) -> None:
    assert not any(complaint(room, other) for other in imported_rooms(source))
