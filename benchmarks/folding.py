"""What folding a site takes and saves in ONNX Runtime: the figures behind `laser_fx.passes.folding_pays`.

    python benchmarks/folding.py --out benchmarks/results/folding.json --before CHECKOUT
    python benchmarks/folding.py --out benchmarks/results/folding.json --trm 512 81

Every row is measured in one process with one thread, its arms taking turns, and is the least of the rounds: ratios are
to be trusted, microseconds are this machine's. A step is the difference of a deep and a shallow run of one loop; what
happens once, the first basis, is beside it. The inputs of a site have half its rank, exactly, and one subspace
at all steps: the basis is made once and kept. ``--before`` also measures the files that an older checkout writes;
``--trm`` measures a whole supervision step of an untrained TRM instead. What the file has of other runs stays in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.files import write_text

SITES = (  # N, D, F, k
    (81, 256, 1536, 32),
    (81, 512, 1536, 64),
    (81, 512, 3072, 64),
    (81, 1536, 512, 64),
    (900, 256, 1536, 32),
    (900, 512, 512, 64),
    (900, 512, 3072, 64),
    (900, 512, 3072, 256),
    (900, 1536, 512, 64),
    (3600, 512, 3072, 64),
    (4, 16, 16, 4),
)
SHALLOW, DEEP = 4, 24


class OneSite(nn.Module):
    """A loop around one linear: each step scales its input a little more than the one before."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(features, outputs, bias=False)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """``x`` (N, D) and the first scale (1,) to the last one."""
        for _ in range(SHALLOW):
            y = self.up(x * s)
            s = s * 1.001 + 1e-9 * y[..., :1].mean()
        return s


def write(folder: Path) -> None:
    """Every site's files, as the laser_fx that is imported writes them."""
    for n, d, f, k in SITES:
        torch.manual_seed(0)
        model, inputs = OneSite(d, f).eval(), site_inputs(n, d, k)
        for arm, options in arms(k).items():
            compiled = laser_fx.compile(model, inputs, options=options)
            compiled.to_onnx(folder / f"{arm}-{n}-{d}-{f}-{k}.onnx", verify=False)


def arms(rank: int) -> dict[str, Any]:
    """Options by name; those that an older version does not know are left out."""
    known = laser_fx.Options.__dataclass_fields__
    asked = {"rank": rank, "fidelity": 0.99, "sites": "all"}
    tracked = {key: value for key, value in asked.items() if key in known}
    made = {"exact": laser_fx.Options.exact(), "activation": laser_fx.Options(**tracked)}
    return made | ({"output": laser_fx.Options(**tracked, objective="output")} if "objective" in known else {})


def site_inputs(n: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    """X of rank k/2, and the scale."""
    torch.manual_seed(1)
    return torch.randn(n, k // 2) @ torch.randn(k // 2, d), torch.ones(1)


def session(path: Path) -> Any:
    """One thread, all optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def least(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Microseconds of each, taking turns."""
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # the first round warms up
                best[name] = min(best[name], 1e6 * (time.perf_counter() - began))
    return best


def measure_site(folders: Mapping[str, Path], sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """A row: µs of a step that keeps its basis, and of the first one, by arm; and what the cost model says."""
    n, d, f, k = sizes
    x, s = (value.numpy() for value in site_inputs(n, d, k))
    paths = {
        f"{folder}{arm}": path
        for folder, where in folders.items()
        for arm in ("exact", "activation", "output")
        if (path := where / f"{arm}-{n}-{d}-{f}-{k}.onnx").exists() and (not folder or arm != "exact")
    }
    sessions = {name: session(path) for name, path in paths.items()}
    runs = {
        f"{name}@{depth}": lambda used=used, depth=depth: used.run(None, {"x": x, "s": s, "depth": np.array(depth)})
        for name, used in sessions.items()
        for depth in (SHALLOW, DEEP)
    }
    took = least(runs, rounds)
    step = {name: (took[f"{name}@{DEEP}"] - took[f"{name}@{SHALLOW}"]) / (DEEP - SHALLOW) for name in sessions}
    once = {name: took[f"{name}@{SHALLOW}"] - SHALLOW * step[name] for name in sessions if name != "exact"}
    gain = {name: round(step["exact"] / value, 2) for name, value in step.items() if name != "exact"}
    rounded = [{name: round(value, 1) for name, value in part.items()} for part in (step, once)]
    return {"sizes": sizes, "step_us": rounded[0], "once_us": rounded[1], "gain": gain, "model": said(sizes)}


def said(sizes: tuple[int, ...]) -> dict[str, float]:
    """The cost model's gain of a step that keeps its basis, and the microseconds of a first one."""
    from laser_fx.loops import Site, Step
    from laser_fx.passes.folding_pays import folding

    n, d, f, k = sizes
    site = Site("up", "loop_0", "up.weight", n, d, f, steps=1)
    kept, reset = Step(1.0, k, False, False, False), Step(1.0, k, True, True, False)
    made = {}
    for objective in ("activation", "output"):
        usual, first = (folding(site, k, objective=objective, done=(step,)) for step in (kept, reset))
        made[objective] = round(usual.exact / usual.folded, 2)
        made[f"{objective}_once_us"] = round(first.folded - usual.folded, 1)
    return made


def measure_trm(features: int, tokens: int, folder: Path, rounds: int) -> dict[str, Any]:
    """A whole supervision step of an untrained TRM: exact, every site tracked, and what the cost model chooses."""
    from laser_fx.zoo.trm import TRM, TRMConfig

    torch.manual_seed(0)
    config = TRMConfig(seq_len=tokens, vocab_size=11, hidden_size=features, halt_exploration_prob=0.0)
    model = TRM(config).eval()
    batch = {"inputs": torch.randint(1, 11, (2, tokens)), "puzzle_identifiers": torch.zeros(2, dtype=torch.int64)}
    carry = model.initial_carry(batch)
    exact = laser_fx.compile(model, (carry, batch), options=laser_fx.Options.exact())
    paths, found = {"exact": folder / "exact.onnx"}, {}
    exact.to_onnx(paths["exact"], verify=False, overwrite=True)
    for name, changes in TRM_ARMS.items():
        if "objective" in changes and tokens > MANY_TOKENS:
            continue  # the spectra of its outputs alone take minutes
        compiled = exact.with_options(laser_fx.Options(**changes))
        paths[name] = folder / f"{name}.onnx"
        compiled.to_onnx(paths[name], verify=False, overwrite=True)
        sites = [(s.name.rpartition(".")[2], s.loop, s.rank, s.objective) for s in compiled.sites]
        found[name] = {"sites": sites, "left_exact": dict(compiled.program.left_exact)}
    files = {name: laser_fx.export.OnnxModel(path, session_options=_ONE_THREAD) for name, path in paths.items()}
    took = least({name: lambda file=file: file(carry, batch) for name, file in files.items()}, rounds)
    for name, file in files.items():
        stats = [np.asarray(value).reshape(-1, 5) for value in file.stats.values()]
        if stats:
            rows = np.concatenate(stats)
            found[name]["steps"] = dict(zip(("tracked", "reset", "exact"), rows[:, 2:].sum(0).tolist(), strict=True))
            found[name]["steps"]["all"] = len(rows)
    seconds = {name: round(value / 1e6, 4) for name, value in took.items()}
    gain = {name: round(took["exact"] / value, 2) for name, value in took.items()}
    return {"D": features, "tokens": tokens, "batch": 2, "seconds": seconds, "gain": gain, "arms": found}


MANY_TOKENS = 200
_ONE_THREAD = {"intra_op_num_threads": 1, "log_severity_level": 3}
TRM_ARMS = {
    f"{sites}-{fidelity}": {"fidelity": fidelity, "sites": sites}
    for fidelity in (0.9, 0.99)
    for sites in ("all", "paying")
} | {"output-0.9": {"fidelity": 0.9, "sites": "paying", "objective": "output"}}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--trm", type=int, nargs=2, metavar=("D", "TOKENS"), help="a whole model instead of sites")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.write:
        write(asked.write)
        return
    from laser_fx.reporting.environment import environment

    made = {"command": " ".join(["python", *sys.argv]), "environment": environment()}
    with tempfile.TemporaryDirectory() as name:
        folders = {"": Path(name, "now"), **({"before_": Path(name, "before")} if asked.before else {})}
        for folder in folders.values():
            folder.mkdir()
        if asked.trm:
            keep(
                asked.out, f"trm D={asked.trm[0]}, {asked.trm[1]} tokens", made | measure_trm(*asked.trm, Path(name), 3)
            )
            return
        write(folders[""])
        if asked.before:
            command = [sys.executable, __file__, "--write", str(folders["before_"])]
            subprocess.run(command, env={**os.environ, "PYTHONPATH": str(asked.before.resolve())}, check=True)
        keep(asked.out, "sites", made | {"rows": [measure_site(folders, sizes, asked.rounds) for sizes in SITES]})


def keep(path: Path | None, part: str, made: dict[str, Any]) -> None:
    """Print a part, and put it into the file beside the others."""
    print(json.dumps(made, indent=1), flush=True)
    if path is not None:
        others = json.loads(path.read_text()) if path.exists() else {}
        write_text(path, json.dumps(others | {part: made}, indent=1) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
