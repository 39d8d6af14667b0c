"""What errors of other people's code say, for messages of our own."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(error: BaseException) -> str:
    """What an error says first; its name where it says nothing.

    >>> first_line(ValueError("no such size")), first_line(ValueError())
    ('no such size', 'ValueError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
