"""`LaserCallback` under Lightning: its hooks call it, its loggers get what it writes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from laser_fx.errors import MissingDependencyError

if TYPE_CHECKING:
    from laser_fx.callbacks.callback import LaserCallback

__all__ = ["lightning_callback"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # the same library twice, and a trainer takes its own alone


def lightning_callback(watch: LaserCallback) -> Any:
    """A ``Callback`` of Lightning.

    Raises:
        MissingDependencyError: Lightning is not installed.
    """
    base: Any = _package().Callback

    class LightningCallback(base):  # type: ignore[misc]
        """Writes after each training batch, on the first process."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
            compiled = watch.watched(pl_module)
            if compiled is not None and trainer.is_global_zero:
                watch.write(compiled, trainer.global_step, lambda values, step: _log(watch, trainer, values, step))

    return LightningCallback()


def _log(watch: LaserCallback, trainer: Any, values: Mapping[str, float], step: int) -> None:
    if watch.writer is not None:
        watch.add_scalars(values, step)
        return
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step)


def _package() -> Any:
    """The one that is in use, else the first that is installed."""
    imported = next((sys.modules[name] for name in _PACKAGES if name in sys.modules), None)
    if imported is not None:
        return imported
    for name in _PACKAGES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingDependencyError(
        "Lightning is not installed", where="LaserCallback.lightning", fix="pip install lightning"
    )
