"""The cost model: what it says of sites, and what a compiled model makes of that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import laser_fx
from laser_fx.loops import Site, Step
from laser_fx.options import Options
from laser_fx.passes.folding_pays import Folding, folding
from tests.small import Contractive, low_rank, same

WIDE = Site("mlp.up", "loop_0", "mlp.up.weight", rows=900, features=512, outputs=3072, steps=18)
KEPT, TRACKED = Step(0.999, 60, False, False, False), Step(0.999, 60, True, False, False)
RESET, EXACT = Step(0.999, 60, True, True, False), Step(0.5, 64, True, True, True)
SIZES = st.integers(1, 4096)


def folded(*done: Step, site: Site = WIDE, rank: int = 64, objective: str = "activation") -> Folding:
    return folding(site, rank, objective=objective, done=done or None)


def test_a_wide_site_pays_in_low_rank_and_not_in_high_rank() -> None:
    assert folded().pays
    assert not folded(rank=500).pays


def test_a_site_of_few_rows_pays_less_than_its_refresh() -> None:
    few = replace(WIDE, rows=81)
    assert not folded(RESET, site=few).pays
    assert not folded(*[TRACKED] * 18, site=few).pays


@pytest.mark.parametrize("objective", ["activation", "output"])
def test_every_worse_decision_costs_more(objective: str) -> None:
    times = [folded(*[KEPT] * 17, last, objective=objective).folded for last in (KEPT, TRACKED, RESET, EXACT)]
    assert times == sorted(times)
    assert times[0] < times[1] < times[2]


def test_steps_that_are_all_exact_never_pay() -> None:
    assert not folded(*[EXACT] * 18).pays


def test_a_frozen_basis_costs_its_products_alone() -> None:
    frozen = folding(WIDE, 64, basis="frozen")
    assert folding(WIDE, 64, basis="per_step").folded > frozen.folded
    assert frozen.folded < folded().folded
    assert frozen.exact == folded().exact


@given(rows=SIZES, features=SIZES, outputs=SIZES, steps=st.integers(1, 64), rank=SIZES)
def test_a_larger_rank_never_costs_less_once_products_are_wide(
    rows: int, features: int, outputs: int, steps: int, rank: int
) -> None:
    site = Site("a", "loop_0", "a.weight", rows, features, outputs, steps)
    wide = rank + 16  # products with fewer columns run at another speed
    for objective in ("activation", "output"):
        assert folding(site, wide, objective=objective).folded <= folding(site, wide + 1, objective=objective).folded


def test_sites_that_do_not_pay_are_left_bitwise_exact_and_say_why(tmp_path: Path) -> None:
    model, x = Contractive().eval(), low_rank(6, 32)
    compiled = laser_fx.compile(model, (x,), options=Options(fidelity=0.9, sites="paying"))
    with torch.no_grad():
        assert same(compiled(x), model(x))
    program = compiled.program
    assert program.graph_module is program.rolled
    assert program.left_exact.keys() == {"loop_0:up", "loop_0:down"}
    assert all("times as long as the exact linear" in why for why in program.left_exact.values())
    assert sum(note.startswith("left exact: ") for note in program.notes) == 2
    assert [site.rank for site in compiled.sites] == [None, None]
    report = compiled.report(training=False)
    assert [site.left_exact for site in report.sites] == list(program.left_exact.values())
    assert "loop_0:up stays exact: at rank" in str(report)
    file = compiled.to_onnx(tmp_path / "exact.onnx")
    assert file.verification is not None
    assert file.verification.max_error < 1e-5


class Uneven(Contractive):
    """Of its two sites the first is seen by many rows, the second by one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros_like(x[:1])
        for _ in range(self.trips):
            wide = torch.nn.functional.silu(self.up(z + x))
            z = z + 1e-3 * self.down(wide.mean(0, keepdim=True))
        return z


def test_each_site_is_decided_by_itself() -> None:
    torch.manual_seed(0)
    model, x = Uneven(trips=16, features=256, wide=1024).eval(), low_rank(1200, 256)
    compiled = laser_fx.compile(model, (x,), options=Options(fidelity=0.99, sites="paying"))
    ranks = {site.name: site.rank for site in compiled.sites}
    assert ranks["up"] is not None
    assert ranks["down"] is None
    with torch.no_grad():
        compiled(x)
    report = compiled.report(training=False)
    assert [bool(site.steps) for site in report.sites] == [True, False]
    assert report.sites[0].left_exact is None
    assert report.sites[0].resets == 1


def test_all_sites_are_tracked_where_that_is_asked_for() -> None:
    model, x = Contractive().eval(), low_rank(6, 32)
    compiled = laser_fx.compile(model, (x,), options=Options(fidelity=0.9, sites="all"))
    assert all(site.rank for site in compiled.sites)
    assert compiled.program.left_exact == {}


def test_training_is_no_business_of_the_cost_model() -> None:
    model, x = Contractive().train(), low_rank(40, 32)
    ranks = []
    for sites in ("paying", "all"):
        compiled = laser_fx.compile(model, (x,), options=Options(fidelity=0.9, sites=sites))  # type: ignore[arg-type]
        ranks.append([site.rank for site in compiled.sites])
    assert ranks[0] == ranks[1]
    assert all(ranks[0])


def narrow_output(objective: str) -> laser_fx.CompiledModel:
    """Its activations have full rank, and of what they are multiplied to little is more than noise."""
    torch.manual_seed(0)
    model = Contractive().eval()
    with torch.no_grad():
        for linear in (model.up, model.down):
            linear.weight.copy_(low_rank(*linear.weight.shape, rank=2, noise=1e-4) / 20)
    options = Options(fidelity=0.99, objective=objective, sites="all")  # type: ignore[arg-type]
    return laser_fx.compile(model, (torch.randn(40, 32),), options=options)


def test_the_objective_that_needs_the_lower_rank_is_found() -> None:
    activation, output, either = (narrow_output(o) for o in ("activation", "output", "either"))
    for kept, site in zip(activation.sites, either.sites, strict=True):
        assert site.rank is not None
        assert kept.rank is not None
        assert site.rank <= kept.rank
    assert output.sites[0].rank < activation.sites[0].rank  # type: ignore[operator]
    assert either.sites[0].objective == "output"
    assert [site.objective for site in activation.sites] == ["activation"] * 2


@pytest.mark.parametrize("objective", ["activation", "output", "either"])
def test_every_objective_is_exported_and_answers_as_it_does_here(objective: str, tmp_path: Path) -> None:
    compiled = narrow_output(objective)
    x = torch.randn(40, 32)
    with torch.no_grad():
        expected = compiled(x)
    file = compiled.to_onnx(tmp_path / "file.onnx")
    assert file.verification is not None
    with laser_fx.export.OnnxModel(file.path) as model:
        (answer,) = model(x).values()
        assert {record.shape[-1] for record in model.stats.values()} == {5}
        assert [site["objective"] for site in model.metadata.sites] == [s.objective for s in compiled.sites]
    torch.testing.assert_close(answer, expected, atol=5e-3, rtol=5e-3)


def test_a_full_rank_answers_as_the_model_does() -> None:
    model, x = Contractive().eval(), torch.randn(400, 32)
    for objective in ("activation", "output"):
        options = Options(rank=96, fidelity=0.9, objective=objective, sites="all")  # type: ignore[arg-type]
        compiled = laser_fx.compile(model, (x,), options=options)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)
