"""See the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch

from benchmarks.deploy import early_exit, inductor, latency, loading, profile, rounding, sizes, trained, written_out
from benchmarks.deploy.cases import FULL, QUICK, Plan
from benchmarks.deploy.files import Files
from benchmarks.deploy.publish import FIGURES, figures, publish
from benchmarks.deploy.records import Records

__all__ = ["main"]

WORK = Path(__file__).parents[2] / ".deploy"
PARTS: dict[str, Callable[[Plan, Files, Records], None]] = {
    "export": sizes.measure,
    "load": loading.measure,
    "early_exit": early_exit.measure,
    "latency": latency.measure,
    "rounding": rounding.measure,
    "written_out": written_out.measure,
    "inductor": inductor.measure,
    "profile": profile.measure,
    "low_rank": trained.measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    plan = QUICK if options.quick else FULL
    if options.sizes:
        plan = replace(plan, sizes=tuple(size for size in plan.sizes if size.name in options.sizes))
    records = Records(options.work / f"{plan.name}.jsonl", keep=options.resume)
    for key in options.again:
        records.set_aside("latency", key)
    files = Files(options.work / "files")
    for name in options.parts:
        print(name, file=sys.stderr, flush=True)
        PARTS[name](plan, files, records)
    found = figures(records, options.gpu or gpu_note())
    publish(found, with_page=not options.quick, path=options.work / "deploy_quick.json" if options.quick else FIGURES)


def gpu_note() -> str:
    """Why there are no figures of a GPU."""
    available = ", ".join(onnxruntime.get_available_providers())
    cuda = "torch sees a CUDA device" if torch.cuda.is_available() else "torch sees no CUDA device"
    return f"none was at hand; {cuda}, and this build of ONNX Runtime has {available}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__)
    made.add_argument("--quick", action="store_true", help="a small model: a minute")
    made.add_argument("--resume", action="store_true", help="keep what is on record")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument("--sizes", nargs="+", help="of the models, as 256x81")
    made.add_argument(
        "--again", nargs="+", default=[], metavar="CELL", help="of the latencies, as '256x81/batch 8/16': measure anew"
    )
    made.add_argument("--gpu", help="what to say of the GPU, if not what is seen here")
    made.add_argument("--work", type=Path, default=WORK, metavar="FOLDER", help="records and files")
    return made


if __name__ == "__main__":
    main()
