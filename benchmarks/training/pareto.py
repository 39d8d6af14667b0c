"""Which arms nothing else beats in bytes and time at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["best_peer", "front"]

RowLike = Mapping[str, Any]


def front(rows: Sequence[RowLike], bytes_: str = "held_of_eager") -> list[RowLike]:
    """The rows for which no other takes less time and no more bytes, the fewest bytes first.

    >>> rows = [{"held_of_eager": b, "time_of_eager": t} for b, t in ((1.0, 1.0), (0.5, 1.2), (0.6, 1.3))]
    >>> [row["held_of_eager"] for row in front(rows)]
    [0.5, 1.0]
    """
    found: list[RowLike] = []
    for row in sorted(rows, key=lambda row: (row[bytes_], row["time_of_eager"])):
        if not found or row["time_of_eager"] < found[-1]["time_of_eager"]:
            found.append(row)
    return found


def best_peer(row: RowLike, rows: Sequence[RowLike], bytes_: str = "held_of_eager") -> RowLike | None:
    """The fastest peer on the same engine, as exact as the row is, that keeps no more than it; None without one."""
    peers = [
        peer
        for peer in rows
        if not peer["ours"]
        and peer["engine"] == row["engine"]
        and peer[bytes_] <= row[bytes_]
        and (peer["exact"] or not row["exact"])
    ]
    return min(peers, key=lambda peer: float(peer["time_of_eager"]), default=None)
