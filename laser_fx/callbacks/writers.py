"""Where scalars go: anything with TensorBoard's ``add_scalar``."""

from __future__ import annotations

from typing import Any, Protocol

from laser_fx.errors import InputError, MissingDependencyError

__all__ = ["ScalarWriter", "checked_writer", "tensorboard_writer"]


class ScalarWriter(Protocol):
    """What `torch.utils.tensorboard.SummaryWriter` does, and many others do."""

    def add_scalar(self, tag: str, value: float, step: int, /) -> object:
        """Keep one number.

        Args:
            tag: its name.
            value: the number.
            step: when it was.
        """


def checked_writer(writer: Any) -> Any:
    """The writer, if it is one.

    Raises:
        InputError: it has no ``add_scalar``.
    """
    if writer is not None and not callable(getattr(writer, "add_scalar", None)):
        raise InputError(
            f"the writer is a {type(writer).__name__}, which has no add_scalar",
            where="LaserCallback(writer)",
            fix="pass a torch.utils.tensorboard.SummaryWriter, or an object with add_scalar(tag, value, step)",
        )
    return writer


def tensorboard_writer(folder: str | None = None) -> Any:
    """TensorBoard's own writer.

    Args:
        folder: where it writes; ``runs/…`` unless given.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "scalars are written by TensorBoard, which is missing",
            where="LaserCallback",
            fix="pip install 'laser-fx[tensorboard]', or pass a writer with add_scalar(tag, value, step)",
        ) from error
    return SummaryWriter(folder)
