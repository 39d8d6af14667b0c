"""`LaserCallback`: for a plain loop as it is, for Lightning and for Hugging Face's Trainer through an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from laser_fx.alarms import Alarms, reset_rate
from laser_fx.callbacks.scalars import scalars
from laser_fx.callbacks.writers import ScalarWriter, checked_writer, tensorboard_writer
from laser_fx.compiled import CompiledModel
from laser_fx.errors import InputError, OptionError

__all__ = ["LaserCallback", "Write"]

OnAlarm = Callable[[str, float], object]
Write = Callable[[Mapping[str, float], int], object]
"""Takes numbers by tag, and the step."""


class LaserCallback:
    """Writes what a compiled model measures: fidelity, rank, resets, saved bytes; and raises an alarm.

    In a loop of your own, call `step` after each training step. `lightning` and `trainer` make callbacks of it for
    those libraries. Numbers are those of the model's latest call, see `laser_fx.callbacks.scalars`; reading them waits
    for the device.

    Args:
        compiled: the model that was compiled. Adapters find it in the model that is trained.
        writer: anything with ``add_scalar(tag, value, step)``. None: TensorBoard's writer, made at the first step;
            under Lightning its loggers.
        every: how many steps to go from one writing to the next.
        sites: whether to write each site's numbers too.
        reset_alarm: in [0, 1]. A site with a larger share of fresh bases is warned of, once, and ``alarms`` counts
            those of the latest call.
        on_alarm: called with a site's key and its reset rate instead of the warning, at every step that is written.
        prefix: of all tags.

    Raises:
        OptionError: ``every`` or ``reset_alarm`` out of its range.
        InputError: ``compiled`` is not a compiled model, or the writer is none.

    >>> import torch, laser_fx
    >>> class Looped(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
    ...     def forward(self, x):
    ...         for _ in range(5):
    ...             x = x + self.down(torch.relu(self.up(x)))
    ...         return x
    >>> class Kept(dict):
    ...     def add_scalar(self, tag, value, step):
    ...         self[step, tag] = value
    >>> compiled = laser_fx.compile(Looped(), options=laser_fx.Options(rank=2, fidelity=0.01))
    >>> watch = LaserCallback(compiled, Kept(), sites=False, prefix="run")
    >>> compiled(torch.ones(64, 8)).sum().backward()
    >>> list(watch.step(0))  # doctest: +NORMALIZE_WHITESPACE
    ['run/reset_rate', 'run/exact_rate', 'run/fidelity', 'run/rank', 'run/saved_bytes/sites_exact',
     'run/saved_bytes/sites', 'run/alarms']
    >>> watch.writer[0, "run/rank"], watch.writer[0, "run/alarms"]
    (1.0, 0.0)
    """

    def __init__(
        self,
        compiled: CompiledModel | None = None,
        writer: ScalarWriter | None = None,
        *,
        every: int = 1,
        sites: bool = True,
        reset_alarm: float = 0.5,
        on_alarm: OnAlarm | None = None,
        prefix: str = "laser_fx",
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every is {every!r}", where="LaserCallback", fix="choose a whole number of at least 1")
        if isinstance(reset_alarm, bool) or not 0.0 <= reset_alarm <= 1.0:
            raise OptionError(f"reset_alarm is {reset_alarm!r}", where="LaserCallback", fix="choose a number in [0, 1]")
        if compiled is not None and not isinstance(compiled, CompiledModel):
            raise InputError(
                f"the model is a {type(compiled).__name__}", where="LaserCallback", fix="pass laser_fx.compile(model)"
            )
        self.compiled, self.writer = compiled, checked_writer(writer)
        self.every, self.sites, self.reset_alarm, self.on_alarm, self.prefix = (
            every,
            sites,
            reset_alarm,
            on_alarm,
            prefix,
        )
        self._alarms = Alarms()

    def step(self, step: int) -> dict[str, float]:
        """Write the numbers of the latest call, if it is time to.

        Args:
            step: number of the training step.

        Returns:
            What was written, by tag; empty at steps that are left out.

        Raises:
            InputError: no model was given, or it was not called yet.
            MissingDependencyError: no writer was given, and TensorBoard is missing.
        """
        if self.compiled is None:
            raise InputError("there is no model to watch", where="LaserCallback", fix="LaserCallback(compiled, writer)")
        return self.write(self.compiled, step, self.add_scalars)

    def add_scalars(self, values: Mapping[str, float], step: int, folder: str | None = None) -> None:
        """Hand numbers to the writer, which is made where there is none.

        Args:
            values: by tag.
            step: number of the training step.
            folder: where a new writer writes.
        """
        if self.writer is None:
            self.writer = tensorboard_writer(folder)
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def write(self, compiled: CompiledModel, step: int, write: Write) -> dict[str, float]:
        """The same for adapters, which know the model and where its numbers go."""
        if step % self.every:
            return {}
        values = {**scalars(compiled, sites=self.sites), "alarms": float(self._raised(compiled))}
        tagged = {f"{self.prefix}/{name}": value for name, value in values.items()}
        write(tagged, step)
        return tagged

    def watched(self, module: nn.Module) -> CompiledModel | None:
        """The compiled model in a module that is trained; None where there is none that was called."""
        inside = (part for part in module.modules() if isinstance(part, CompiledModel))
        found = self.compiled or next(inside, None)
        return found if found is not None and found.is_compiled else None

    def lightning(self) -> Any:
        """A callback for ``lightning.pytorch.Trainer(callbacks=[…])``.

        Raises:
            MissingDependencyError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
        """
        from laser_fx.callbacks.lightning import lightning_callback

        return lightning_callback(self)

    def trainer(self) -> Any:
        """A callback for ``transformers.Trainer(callbacks=[…])``.

        Raises:
            MissingDependencyError: ``transformers`` is not installed.
        """
        from laser_fx.callbacks.trainer import trainer_callback

        return trainer_callback(self)

    def _raised(self, compiled: CompiledModel) -> int:
        """Tell of sites beyond the bound; how many there are."""
        recorded = compiled.latest_steps
        beyond = {site: rate for site, steps in recorded.items() if (rate := reset_rate(steps)) > self.reset_alarm}
        if self.on_alarm is None:
            self._alarms.check(recorded, self.reset_alarm)
        else:
            for site, rate in beyond.items():
                self.on_alarm(site, rate)
        return len(beyond)
