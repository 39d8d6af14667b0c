"""What was measured so far: one line of JSON each, added as it comes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Missing", "Records"]

Values = dict[str, Any]
_EARLIER = ", earlier"


class Missing(Exception):
    """Something that cannot be measured here or with this version, and why."""


class Records:
    """Values by part and key, in a file that only grows.

    Args:
        path: the file; created with the first record.
        keep: whether what it has already counts.

    >>> import tempfile
    >>> records = Records(Path(tempfile.mkdtemp()) / "runs.jsonl")
    >>> records.once("sizes", "a", lambda: {"nodes": 3})
    {'nodes': 3}
    >>> Records(records.path, keep=True).once("sizes", "a", lambda: {"nodes": 4})  # not measured again
    {'nodes': 3}
    """

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path = path
        self._found: dict[str, dict[str, Values]] = {}
        if not keep:
            path.unlink(missing_ok=True)
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            entry = json.loads(line)
            self._found.setdefault(entry["part"], {})[entry["key"]] = entry["values"]
            if entry["part"].endswith(_EARLIER):
                self._found.get(entry["part"].removesuffix(_EARLIER), {}).pop(entry["key"], None)

    def part(self, name: str) -> Mapping[str, Values]:
        """What a part has, by key."""
        return self._found.get(name, {})

    def once(self, part: str, key: str, measure: Callable[[], Values], *, again: bool = False) -> Values:
        """The values on record, measured if there are none; what cannot be measured is on record with its reason."""
        known = self.part(part).get(key)
        if known is not None and not again:
            return known
        began, cpu, load = time.perf_counter(), time.process_time(), os.getloadavg()[0]
        try:
            values = measure()
        except Missing as missing:
            values = {"missing": str(missing)}
        took = {"took": [round(time.perf_counter() - began, 1), round(time.process_time() - cpu, 1)]}
        self._append({"part": part, "key": key, "values": values, **took, "load": [load, os.getloadavg()[0]]})
        self._found.setdefault(part, {})[key] = values
        return values

    def set_aside(self, part: str, key: str) -> None:
        """Keep values under ``{part}, earlier``, so that they are measured again and both are on record.

        >>> import tempfile
        >>> records = Records(Path(tempfile.mkdtemp()) / "runs.jsonl")
        >>> _ = records.once("latency", "a", lambda: {"seconds": 3})
        >>> records.set_aside("latency", "a")
        >>> Records(records.path, keep=True).once("latency", "a", lambda: {"seconds": 2})
        {'seconds': 2}
        >>> Records(records.path, keep=True).part("latency, earlier")
        {'a': {'seconds': 3}}
        """
        values = self._found[part].pop(key)
        self._append({"part": part + _EARLIER, "key": key, "values": values})
        self._found.setdefault(part + _EARLIER, {})[key] = values

    def _append(self, entry: Values) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
