"""The differences of two reports for a terminal: a heading for each section, a line for each value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from laser_fx.reporting import format as fmt
from laser_fx.reporting.differences import Difference
from laser_fx.reporting.terminal import Harmless, console, encoding_of, plain_text

__all__ = ["print_differences"]

_WIDTH = 160
_MOST_ROWS = 200
_SIGNS = {"changed": ("~", "yellow"), "appeared": ("+", "green"), "vanished": ("-", "red")}
_TITLES = {"saved_bytes": "saved for backward", "flops": "FLOPs", "onnx": "ONNX", "near_misses": "near-misses"}


def print_differences(found: Sequence[Difference], file: TextIO) -> None:
    """Prints them, in colour where the file is a terminal.

    Args:
        found: what `laser_fx.reporting.differences.differences` found.
        file: where to.
    """
    page = Harmless(Group(*_sections(found)))
    screen = console(file)
    if screen.is_terminal:
        screen.print(page)
    else:
        file.write(plain_text(page, _WIDTH, encoding_of(file)) + "\n")


def _sections(found: Sequence[Difference]) -> Iterator[RenderableType]:
    for section, rows in groupby(found, lambda difference: difference.section):
        yield Text(_TITLES.get(section, section), style="bold")
        yield _table(section, list(rows))


def _table(section: str, rows: Sequence[Difference]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(5):
        table.add_column(overflow="fold")
    above = ""
    for row in rows[:_MOST_ROWS]:
        sign, colour = _SIGNS[row.kind]
        name, above = Text("" if row.where == above else row.where), row.where
        table.add_row(Text(sign, style=colour), name, Text(row.what, style="dim"), _values(section, row), _factor(row))
    if len(rows) > _MOST_ROWS:
        table.add_row("", Text(f"and {len(rows) - _MOST_ROWS:,} more: --json has all", style="yellow"))
    return table


def _values(section: str, row: Difference) -> Text:
    show = _shown(section, row.what)
    if row.kind == "appeared":
        return Text(show(row.after), style="green")
    if row.kind == "vanished":
        return Text(show(row.before), style="red")
    before, after = (show(row.before), "red"), (show(row.after), "green")
    return Text.assemble(before, (" → ", "dim"), after, (f"  {row.note}", "dim"))


def _shown(section: str, what: str) -> Callable[[Any], str]:
    if section == "control":  # a report in the report
        section = what.partition(".")[0]

    def show(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return _text(value)
        if _is_bytes(section, what):
            return fmt.bytes_(value)
        if what.endswith("_share"):
            return fmt.percent(value)
        return fmt.count(value) if section == "flops" else f"{value:.6g}"

    return show


def _is_bytes(section: str, what: str) -> bool:
    if section == "memory":
        return what.startswith("classes.")
    last = what.rpartition(".")[2]
    return section == "saved_bytes" or last == "bytes" or (section == "plan" and last in ("before", "after"))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return _entry(value)
    if isinstance(value, list):
        return ("/" if all(isinstance(item, int) for item in value) else ", ").join(map(_text, value)) or "none"
    return str(value)


def _entry(entry: Mapping[str, Any]) -> str:
    """What tells most of a loop, a site, or anything else."""
    if "trip_count" in entry:
        return f"× {entry['trip_count']}  {entry.get('source') or ''}".rstrip()
    if "features" in entry:
        return f"{entry['rows']} × {entry['features']} → {entry['outputs']}, {entry['step_count']} steps"
    plain = ((key, value) for key, value in entry.items() if isinstance(value, (str, int, float)) and value != "")
    return ", ".join(f"{key} {value}" for key, value in plain)


def _factor(row: Difference) -> Text:
    numbers = [v for v in (row.before, row.after) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return Text(fmt.factor(numbers[1], numbers[0]) if len(numbers) == 2 and numbers[0] else "", style="dim")
