"""See the package."""

from __future__ import annotations

import json
import sys
import time

import torch

from benchmarks.dynamics.measure import MODELS, measured
from benchmarks.dynamics.publish import FIGURES, publish
from laser_fx.files import write_text
from laser_fx.reporting.environment import environment


def main() -> None:
    torch.set_num_threads(1)
    began = time.process_time()
    models = {}
    for name in MODELS:
        models[name] = measured(name)
        print(f"{name}: {time.process_time() - began:.0f} CPU s", file=sys.stderr, flush=True)
    figures = {
        "command": "python -m benchmarks.dynamics",
        "models": models,
        "cpu_seconds": round(time.process_time() - began),
        "threads": 1,
        "environment": environment(),
    }
    write_text(FIGURES, json.dumps(figures, indent=1, ensure_ascii=False) + "\n", overwrite=True)
    publish()


if __name__ == "__main__":
    main()
