"""What is being done, on standard error, where that is a terminal that can move its cursor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from laser_fx.progress import Stage
from laser_fx.reporting.terminal import console

if TYPE_CHECKING:
    from rich.progress_bar import ProgressBar

__all__ = ["Bars", "bars_or_none"]

_BAR = 24


def bars_or_none() -> Bars | None:
    """Somebody who shows the stages; None where standard error is no terminal, or a dumb one."""
    screen = console(sys.stderr)
    return Bars(screen) if sys.stderr.isatty() and screen.is_terminal and not screen.is_dumb_terminal else None


class Bars:
    """Shows the stages that are under way, the outer ones above, and wipes them when the outermost one has ended.

    Args:
        screen: where to.
    """

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._progress: Progress | None = None
        self._tasks: dict[Stage, TaskID] = {}

    def began(self, stage: Stage) -> None:
        """Show a stage."""
        if self._progress is None:
            self._progress = _lines(self._screen)
            self._progress.start()
        name = "  " * len(self._tasks) + stage.name
        self._tasks[stage] = self._progress.add_task(name, total=stage.total, completed=stage.done)

    def advanced(self, stage: Stage) -> None:
        """Show that a part of it is done."""
        if self._progress is not None and stage in self._tasks:
            self._progress.update(self._tasks[stage], completed=stage.done, total=stage.total)

    def ended(self, stage: Stage) -> None:
        """Show it no more."""
        if self._progress is None or stage not in self._tasks:
            return
        self._progress.remove_task(self._tasks.pop(stage))
        if not self._tasks:
            self.close()

    def close(self) -> None:
        """Show nothing more, whatever is under way: what an error left open, say."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, {}


def _lines(screen: Console) -> Progress:
    is_utf = screen.encoding.lower().startswith("utf")
    return Progress(
        SpinnerColumn("dots" if is_utf else "line", style="cyan"),
        TextColumn("{task.description}", markup=False),
        _KnownBar(bar_width=_BAR),
        _KnownCount("{task.completed:.0f}/{task.total:.0f}", style="dim"),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        redirect_stdout=False,  # results go where they are sent to
    )


class _KnownBar(BarColumn):
    """A bar where the end is known."""

    def render(self, task: Task) -> ProgressBar:
        return super().render(task) if task.total is not None else Text()  # type: ignore[return-value]


class _KnownCount(TextColumn):
    """A count where the end is known."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text()
