"""LASER with bases that are kept from one training call to the next."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import NonFiniteError
from laser_fx.zoo.families.universal import UniversalTransformer
from tests.births import Births


def lowrank_inputs(count: int = 1) -> list[Tensor]:
    """Batches whose rows lie near a subspace, so that a basis can be small."""
    torch.manual_seed(1)
    directions = torch.randn(3, 16)
    return [torch.randn(8, 16, 3) @ directions + 0.01 * torch.randn(8, 16, 16) for _ in range(count)]


def compiled(x: Tensor, **options: Any) -> CompiledModel:
    torch.manual_seed(0)
    chosen = {"forward": "exact", "memory": "laser", "tracking": "segment", "fidelity": 0.9, **options}
    return laser_fx.compile(UniversalTransformer(), (x,), options=laser_fx.Options(**chosen))


def train(model: CompiledModel, x: Tensor) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


def gradients(model: CompiledModel) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("tracking", ["segment", "position"])
def test_forward_is_exact_and_gradients_are_near(tracking: str) -> None:
    (x,) = lowrank_inputs()
    model = compiled(x, tracking=tracking, fidelity=0.99)
    assert torch.equal(model(x), model._model(x))
    train(model, x)
    found = gradients(model)
    model.zero_grad()
    model._model(x).square().mean().backward()
    exact = [p.grad for p in model._model.parameters() if p.grad is not None]
    assert any(not torch.equal(f, e) for f, e in zip(found, exact, strict=True))
    for f, e in zip(found, exact, strict=True):
        assert torch.cosine_similarity(f.flatten(), e.flatten(), dim=0) > 0.99


def test_every_step_measures_at_least_the_fidelity_or_is_exact() -> None:
    batches = lowrank_inputs(4)
    model = compiled(batches[0])
    for x in batches:
        train(model, x)
        steps = [step for tracked in model.bases.values() for step in tracked.steps]  # type: ignore[union-attr]
        assert steps
        assert all(step.exact or step.fidelity >= 0.9 for step in steps)


def test_bases_serve_the_next_call_and_positions_have_their_own() -> None:
    batches = lowrank_inputs(3)
    for tracking, count in (("segment", 1), ("position", 4)):
        model = compiled(batches[0], tracking=tracking)
        for x in batches:
            train(model, x)
        for tracked in model.bases.values():
            assert len(tracked.bases) == count  # type: ignore[union-attr, arg-type]
            assert not any(step.reset for step in tracked.steps)  # type: ignore[union-attr]


def test_the_plan_reports_both_denominators_and_counts_what_is_held() -> None:
    (x,) = lowrank_inputs()
    model = compiled(x)
    model(x)
    plan = model.plan
    assert plan is not None
    assert plan.site_fraction < plan.fraction < 1.0
    lowrank = [row for row in plan.rows if row.codec == "lowrank"]
    assert lowrank
    assert all(row.site.startswith("loop_0:") and row.after < row.before for row in lowrank)
    with Births() as births:
        result = model(x)
    # Bases live in any case, as weights do; the plan counts them, what was born in the call does not hold them all.
    assert births.alive() <= plan.after + result.nbytes + 4096


def test_a_checkpoint_with_bases_goes_on_as_the_run_would_have() -> None:
    batches = lowrank_inputs(4)
    model = compiled(batches[0])
    for x in batches[:2]:
        train(model, x)
    state = {name: value.clone() for name, value in model.bases.state_dict().items()}
    assert state
    for x in batches[2:]:
        train(model, x)
    other = compiled(batches[0])
    other.bases.load_state_dict(state)
    for x in batches[2:]:
        train(other, x)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), gradients(other), strict=True))


def test_the_state_dict_of_the_model_holds_no_bases() -> None:
    (x,) = lowrank_inputs()
    model = compiled(x)
    assert model.state_dict().keys() == model._model.state_dict().keys()


def test_a_nan_is_named_by_site_and_step() -> None:
    (x,) = lowrank_inputs()
    model = compiled(x)
    with torch.no_grad():  # what comes in is finite, what a site measures is not
        model.block.qkv.weight.fill_(1e38)
    with pytest.raises(NonFiniteError, match=r"step [01]"):
        train(model, x)


def test_an_alarm_is_raised_where_bases_do_not_keep_up(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(2)
    model = compiled(torch.randn(8, 16, 16), reset_alarm=0.0, fidelity=0.9)
    with caplog.at_level(logging.WARNING, logger="laser_fx"):
        for _ in range(3):
            train(model, torch.randn(8, 16, 3) @ torch.randn(3, 16))
    assert "needed a basis of their own" in caplog.text


def test_a_report_holds_the_steps_of_the_latest_call() -> None:
    (x,) = lowrank_inputs()
    model = compiled(x)
    train(model, x)
    report = model.report(training=False)
    assert any(site.steps for site in report.sites)


def test_evaluation_between_steps_leaves_bases_alone() -> None:
    batches = lowrank_inputs(2)
    model = compiled(batches[0])
    train(model, batches[0])
    before = {name: value.clone() for name, value in model.bases.state_dict().items()}
    model.eval()
    with torch.no_grad():
        model(batches[1])
    model.train()
    after = model.bases.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_no_table_keeps_bases_alive() -> None:
    (x,) = lowrank_inputs()
    model = compiled(x)
    train(model, x)
    assert model.plan is not None  # asks what low rank costs
    tracked = [weakref.ref(tracked) for tracked in model.bases.values()]
    assert tracked
    del model
    gc.collect()
    assert not any(reference() for reference in tracked)


def test_the_time_of_a_plan_follows_the_rank() -> None:
    (x,) = lowrank_inputs()
    model = compiled(x)
    (tracked, *_) = model.bases.values()
    before = tracked.cost_key  # type: ignore[union-attr]
    for basis in tracked.bases:  # type: ignore[union-attr]
        basis.q = torch.zeros(16, 9)
    assert tracked.cost_key != before  # type: ignore[union-attr]
