"""How large a report's page is, and how long a browser takes to open it.

    python -m benchmarks.report_page --json benchmarks/results/report_page.json

The report is made up, as large as real ones get: 100 sites of 500 steps, with spectra, a trajectory and a picture of
2,000 operators. Each opening is a fresh profile of headless Chromium; the time is the browser's own, from navigation to
the mark that the page sets when all of it can be used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from laser_fx.files import write_text
from laser_fx.reporting import environment
from tests.reporting.big import large
from tests.reporting.browser import opened, started

SITES, STEPS = 100, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--times", type=int, default=7, help="how often the page is opened")
    arguments = parser.parse_args()
    found = measured(arguments.times)
    print(json.dumps(found, indent=2))
    write_text(arguments.json, json.dumps(found, indent=1) + "\n", overwrite=True)


def measured(times: int) -> dict[str, Any]:
    """Sizes in bytes, times in seconds."""
    with tempfile.TemporaryDirectory() as folder, started() as browser:
        report = large(SITES, STEPS)
        began = time.perf_counter()
        file = report.to_html(Path(folder) / "report.html")
        made = time.perf_counter() - began
        seconds = [_seconds(browser, file) for _ in range(times)]
        return {
            "command": "python -m benchmarks.report_page --json benchmarks/results/report_page.json",
            "environment": {**environment(), "Chromium": browser.version, "machine": platform.machine()},
            "conditions": f"two cores shared with other work, load average {os.getloadavg()[0]:.1f}",
            "sites": SITES,
            "steps": STEPS,
            "bytes": file.stat().st_size,
            "to_html": round(made, 2),
            "ready": [each["ready"] for each in seconds],
            "ready_least": min(each["ready"] for each in seconds),
            "ready_median": median(each["ready"] for each in seconds),
            "all_charts": [each["complete"] for each in seconds],
        }


def _seconds(browser: Any, file: Path) -> dict[str, float]:
    """From navigation to each mark."""
    with opened(browser, file) as it:
        marks = it.page.evaluate("performance.getEntriesByType('mark').map(mark => [mark.name, mark.startTime])")
        times = dict(marks)
        return {name: round(times[f"data-{name}"] / 1000, 3) for name in ("ready", "complete")}


if __name__ == "__main__":
    main()
