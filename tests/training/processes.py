"""Two processes of one program: ``launch``, and what each of them runs, ``python -m tests.training.processes FILE``.

The processes end without taking the interpreter down. Threads of torch's gloo let go of the tensors of a collective
when it is done, at times after the main thread; one that asks for the interpreter's lock while the interpreter goes is
unwound by Python through torch's C++, which aborts the process. A busy machine shows that in about one run of twenty.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

__all__ = ["launch"]

ROOT = Path(__file__).parents[2]


def launch(program: str, *arguments: str, folder: Path = ROOT) -> None:
    """Run a Python file, relative to the folder, in two processes; fails with what they said if one of them fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "-m", "tests.training.processes", program, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def main() -> None:
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
