"""A process that opens one file and runs it once: python -m benchmarks.deploy.child FILE TOKENS STEPS."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.deploy.sessions import answer, session


def main(path: str, tokens: str, steps: str) -> None:
    """Prints CPU seconds of opening and of the first run, and the bytes by which the peak of memory rose."""
    before = _peak()
    began = time.process_time()
    opened = session(path)
    ready = time.process_time()
    loaded = _peak()
    inputs = np.random.default_rng(1).integers(1, 11, (1, int(tokens)), dtype=np.int64)
    answer(opened, inputs, int(steps))
    ran = time.process_time() - ready
    print(json.dumps({"load": ready - began, "run": ran, "loaded": loaded - before, "peak": _peak() - before}))


def _peak() -> int:
    """The most memory so far. Not getrusage's: that one begins with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
