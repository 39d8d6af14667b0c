"""Calibrated bases in a program: one for a site, one for each step, and ranks that differ by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx import subspace
from laser_fx.calibration import Calibration, Objective, SiteBasis
from laser_fx.errors import InputError, OptionError
from laser_fx.export import OnnxModel
from laser_fx.memory.measure import flops
from laser_fx.passes.rank_schedule import shares
from tests.small import exact

FEATURES = 8


class Nested(nn.Module):
    """Three loops, one in the other, and linears in the inner two."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps = steps
        self.up, self.down = nn.Linear(FEATURES, 20), nn.Linear(20, FEATURES, bias=False)
        self.mix = nn.Linear(FEATURES, FEATURES)

    def block(self, z: Tensor) -> Tensor:
        return torch.tanh(z + self.down(torch.nn.functional.silu(self.up(z))))

    def forward(self, x: Tensor) -> Tensor:
        h, z = x, 0.5 * x
        for _ in range(self.steps):
            for _ in range(2):
                for _ in range(3):
                    z = self.block(z + h)
                h = torch.tanh(self.mix(h + z))
            h = h - 0.1 * x
        return h


def solve(steps: int) -> Nested:
    return Nested(steps).eval()


def puzzles(rows: int = 3) -> Tensor:
    return torch.randn(rows, 5, FEATURES, generator=torch.Generator().manual_seed(1))


def orthonormal(*shape: int, seed: int = 0) -> Tensor:
    count = int(torch.tensor(shape[:-2]).prod()) if len(shape) > 2 else 1
    parts = [torch.linalg.qr(subspace.sketch(shape[-2], shape[-1], seed + at))[0] for at in range(count)]
    return torch.stack(parts).reshape(shape)


def weighed(basis: Tensor) -> SiteBasis:
    """A basis and its dual, after outputs were weighed one by one."""
    weights = torch.linspace(0.5, 2.0, basis.shape[-2])[:, None]
    probes = weights * subspace.sketch(basis.shape[-2], 8, "probes")
    return SiteBasis("answer", weights * basis, basis / weights, probes.expand(*basis.shape[:-2], *probes.shape))


def calibration(model: nn.Module, objective: Objective, rank: int | None, *, per_step: bool) -> Calibration:
    """Bases of random directions; ``None`` for all of them."""
    program = exact(model, puzzles()).program
    bases: dict[str, SiteBasis] = {}
    for seed, site in enumerate(program.sites):
        rows = site.features if objective == "activation" else site.outputs
        trips = program.nest.trips_around(site.loop) if per_step else ()
        basis = orthonormal(*trips, rows, min(rank or rows, rows), seed=100 * seed)
        bases[site.key] = weighed(basis) if objective == "answer" else SiteBasis(objective, basis)
    return Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ())


def compiled(model: nn.Module, found: Calibration, basis: str = "per_step", **options: Any) -> Any:
    chosen = laser_fx.Options(basis=basis, **options)  # type: ignore[arg-type]
    return laser_fx.compile(model, (puzzles(),), options=chosen, calibration=found)


def answers(module: Any, x: Tensor | None = None) -> Any:
    with torch.no_grad():
        return module(puzzles() if x is None else x)


def stats(module: Any) -> dict[str, Tensor]:
    return {
        key: torch.tensor([[s.fidelity, s.rank] for s in steps])
        for key, steps in module.program.steps(module._records).items()
    }


@pytest.mark.parametrize("objective", ["activation", "output", "answer"])
@pytest.mark.parametrize("schedule", [None, (1.0, "exact")])
def test_full_bases_of_every_step_are_the_linears(objective: Objective, schedule: Any) -> None:
    model = solve(3)
    found = calibration(model, objective, None, per_step=True)
    made = compiled(model, found, rank_schedule=schedule)
    torch.testing.assert_close(answers(made), answers(model), rtol=1e-4, atol=1e-4)
    assert all(values[:, 0].min() > 1 - 1e-5 for values in stats(made).values())


def by_hand(model: Nested, found: Calibration) -> Tensor:
    """The same solve with every linear's weight replaced at every step by what its basis leaves of it."""
    calls = dict.fromkeys(("up", "down", "mix"), 0)

    def lower(name: str) -> Any:
        def lowered(linear: Any, arguments: tuple[Tensor]) -> Tensor:
            outer, within = divmod(calls[name], 2 if name == "mix" else 6)
            at = (outer, within) if name == "mix" else (outer, *divmod(within, 3))
            calls[name] += 1
            basis = found.bases[f"{'loop_0_0' if name == 'mix' else 'loop_0_0_0'}:{name}"]
            q, w = basis.basis[at] if basis.is_per_step else basis.basis, linear.weight
            if basis.dual is not None:
                dual = basis.dual[at] if basis.is_per_step else basis.dual
                left = dual @ (q.mT @ w)
            else:
                left = w @ q @ q.mT if basis.objective == "activation" else q @ (q.mT @ w)
            return nn.functional.linear(arguments[0], left, linear.bias)

        return lowered

    handles = []
    for name in calls:
        linear, change = getattr(model, name), lower(name)
        handles.append(linear.register_forward_hook(lambda module, x, _, change=change: change(module, x)))
    found_answers: Tensor = answers(model)
    for handle in handles:
        handle.remove()
    return found_answers


@pytest.mark.parametrize("objective", ["activation", "output", "answer"])
@pytest.mark.parametrize("per_step", [False, True])
def test_every_step_computes_through_its_own_basis(objective: Objective, per_step: bool) -> None:
    model = solve(3)
    found = calibration(model, objective, 6, per_step=per_step)
    made = compiled(model, found, "per_step" if per_step else "frozen")
    torch.testing.assert_close(answers(made), by_hand(model, found), rtol=1e-4, atol=1e-4)


def test_a_longer_call_clamps_the_outermost_step_and_a_shorter_one_uses_the_first() -> None:
    found = calibration(solve(3), "answer", 6, per_step=True)
    for steps in (2, 5):
        bases = {k: b.at_steps(torch.tensor([min(t, 2) for t in range(steps)])) for k, b in found.bases.items()}
        expected = by_hand(solve(steps), replace(found, bases=bases))
        torch.testing.assert_close(answers(compiled(solve(steps), found)), expected, rtol=1e-4, atol=1e-4)


def test_bases_of_other_inner_loops_are_refused() -> None:
    model = solve(3)
    found = calibration(model, "output", 6, per_step=True)
    bases = {key: replace(b, basis=b.basis[:, :1]) for key, b in found.bases.items()}
    with pytest.raises(InputError, match="loops of 3 × 1"):
        compiled(model, replace(found, bases=bases))
    with pytest.raises(OptionError, match="bases for each step"):
        compiled(model, found, "frozen")


@pytest.mark.parametrize(("objective", "per_step"), [("activation", False), ("answer", True)])
def test_a_rolled_file_answers_and_measures_as_the_program(
    objective: Objective, per_step: bool, tmp_path: Path
) -> None:
    model = solve(4)
    found = calibration(model, objective, 6, per_step=per_step)
    made = compiled(model, found, "per_step" if per_step else "frozen", rank_schedule=(0.5, 1.0, "exact"))
    file = made.to_onnx(tmp_path / "file.onnx")
    with OnnxModel(file.path) as onnx:
        x = puzzles(5)
        (found_there,) = onnx(x).values()
        torch.testing.assert_close(found_there, answers(made, x), rtol=1e-4, atol=1e-4)
        for key, values in stats(made).items():
            rows = torch.as_tensor(onnx.stats[key]).reshape(-1, 5)
            torch.testing.assert_close(rows[:, :2], values, rtol=1e-4, atol=1e-4)
        # A loop whose steps have bases of their own has no free depth: the exact piece's is left.
        loops = [depth.loop for depth in onnx.metadata.depths]
        assert loops == (["loop_0_from_3"] if per_step else ["loop_0", "loop_0_from_2", "loop_0_from_3"])


def test_a_schedule_counts_from_the_last_step() -> None:
    model = solve(5)
    found = calibration(model, "output", 6, per_step=False)
    made = compiled(model, found, "frozen", rank_schedule=(0.5, 1.0, "exact"))
    answers(made)
    by_loop = {loop.name: loop.trip_count for loop in made.loops.loops}
    assert by_loop == {"loop_0": 3, "loop_0_from_3": 1, "loop_0_from_4": 1}
    ranks = {key: set(values[:, 1].tolist()) for key, values in stats(made).items()}
    assert ranks == {
        **{key: {3.0} for key in found.bases},
        **{key.replace("loop_0", "loop_0_from_3", 1): {6.0} for key in found.bases},
    }


def test_a_schedule_by_hand_comes_before_the_calibration_s() -> None:
    model = solve(3)
    found = replace(calibration(model, "output", 6, per_step=True), rank_schedule=(0.5,))
    answers(own := compiled(model, found))
    assert {values[0, 1].item() for values in stats(own).values()} == {3.0}
    answers(by_hand := compiled(model, found, rank_schedule=(1.0,)))
    assert {values[0, 1].item() for values in stats(by_hand).values()} == {6.0}


@pytest.mark.parametrize("per_step", [False, True])
def test_operations_are_those_of_the_graph(per_step: bool) -> None:
    """Two linears of k columns instead of one at every step, and nothing at steps that are exact."""
    model, rank, schedule = solve(4), 6, (0.5, "exact")
    found = calibration(model, "output", rank, per_step=per_step)
    basis = "per_step" if per_step else "frozen"
    program = exact(model, puzzles()).program
    made = compiled(model, found, basis, rank_schedule=schedule, measure=False).program
    count = [flops(lambda p=p: p.run_graph(p.graph_module, p.example_inputs)) for p in (program, made)]
    expected = folding = 0
    for site in program.sites:
        per = site.steps // 4
        expected += 2 * site.rows * per * 3 * (3 * (site.features + site.outputs) - site.features * site.outputs)
        folding += 2 * 3 * site.features * site.outputs * (per * 3 if per_step else 1)
    assert count[1] - count[0] == expected + folding


def test_options_and_loops_come_back_after_a_schedule() -> None:
    model = solve(4)
    made = compiled(model, calibration(model, "output", 6, per_step=True), rank_schedule=(1.0, "exact"))
    exact_again = made.with_options(laser_fx.Options.exact())
    assert [loop.name for loop in exact_again.loops.loops] == ["loop_0"]
    assert torch.equal(answers(exact_again), answers(model))
    flat = made.with_options(laser_fx.Options(basis="per_step"))
    assert [loop.trip_count for loop in flat.loops.loops] == [4]


@pytest.mark.parametrize(
    ("schedule", "trips", "expected"),
    [((0.5,), 3, (0.5, 0.5, 0.5)), ((0.5, "exact"), 1, ("exact",)), ((0.2, 0.3, 1.0), 3, (0.2, 0.3, 1.0))],
)
def test_shares_by_step(schedule: Sequence[Any], trips: int, expected: Sequence[Any]) -> None:
    assert shares(tuple(schedule), trips) == expected
