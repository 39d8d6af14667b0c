"""Every error that laser-fx raises on purpose: what happened, where, and what to change.

>>> print(OptionError("fidelity is 1.2", where="Options.fidelity", fix="choose a value in (0, 1]"))
fidelity is 1.2
  where: Options.fidelity
  fix: choose a value in (0, 1]
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "ExportError",
    "InputError",
    "LaserError",
    "MissingDependencyError",
    "NoLoopWarning",
    "NonFiniteError",
    "OnnxFileError",
    "OptionError",
    "OutputPathError",
    "PassError",
    "VerificationError",
]


class LaserError(Exception):
    """Base of all errors of laser-fx.

    Args:
        what: what happened, one sentence.
        where: the node, site, file, tensor or option concerned.
        fix: what the caller can change.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if fix is not None:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))


class OptionError(LaserError, ValueError):
    """An option is out of its range or does not fit another one."""


class InputError(LaserError, ValueError):
    """The inputs of a call do not fit the model, or what was captured of it."""


class CaptureError(LaserError, RuntimeError):
    """`torch.export` cannot capture the model as one graph."""


class NonFiniteError(LaserError, ArithmeticError):
    """A NaN or an infinity in an input, in a weight, or at a site."""


class PassError(LaserError, RuntimeError):
    """A pass broke its own promise: a defect of laser-fx, never of the model."""


class ExportError(LaserError, RuntimeError):
    """The graph cannot be written as ONNX."""


class OutputPathError(LaserError, OSError):
    """A file cannot be written where the caller asked for it."""


class OnnxFileError(LaserError, ValueError):
    """A file is not ONNX, is damaged, or was not written by laser-fx."""


class VerificationError(LaserError, AssertionError):
    """An exported file does not answer as the model does."""


class MissingDependencyError(LaserError, ImportError):
    """An optional package is missing, or two that exclude each other are installed."""


class NoLoopWarning(UserWarning):
    """The model has no weight-shared loop: it runs as it is."""
