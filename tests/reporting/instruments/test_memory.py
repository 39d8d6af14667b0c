from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.compiled import compiled_copy
from laser_fx.compiler import CompiledModel
from laser_fx.errors import PassError
from laser_fx.memory.classes import CLASSES
from laser_fx.memory.measure import saved_bytes
from laser_fx.options import Options
from laser_fx.passes.cut_segments import segments_of
from laser_fx.reporting.instruments import memory
from laser_fx.reporting.instruments.attribute import saved_by_class
from laser_fx.reporting.instruments.memory import measure_memory
from laser_fx.zoo.trm import Solve
from tests.small import Contractive, low_rank, small_trm

WAYS = {
    "eager": None,
    "laser": Options.exact(memory="laser", rank=4, fidelity=0.5),
    "segment": Options.exact(memory="laser", tracking="segment", rank=4, fidelity=0.5),
    "lean": Options.exact(memory="lean"),
    "min": Options.exact(memory="min"),
    "coded": Options.exact(memory="min", approximate=True, max_gradient_error=0.5),
}


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Solve(small_trm(full_gradient=True), 1).train(), torch.randint(1, 7, (3, 9))


@pytest.mark.parametrize(("kind", "way"), [("trm", "eager"), *(("contractive", way) for way in WAYS)])
def test_classes_sum_up_to_what_is_saved(kind: str, way: str, trained: tuple[nn.Module, Tensor]) -> None:
    module, x = (copy.deepcopy(trained[0]), trained[1]) if kind == "trm" else (Contractive().train(), low_rank(64, 32))
    options = WAYS[way]
    run = module if options is None else laser_fx.compile(module, options=options)
    run(x)
    run(x)  # bases that live from call to call are made in the first
    segments = () if options is None else segments_of(run.program.graph_module)
    exclude = [*module.buffers(), x]
    total = saved_bytes(lambda: run(x), exclude=exclude)
    found = saved_by_class(lambda: run(x), segments, exclude=exclude)
    assert sum(found.values()) == total > 0
    assert found.keys() <= set(CLASSES)
    assert found.get("other", 0) <= total // 4  # nearly everything is attributed


def test_eager_is_attributed_to_what_saves_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.tanh(self.up(self.norm(x))))

    x = torch.randn(5, 8, requires_grad=True)
    found = saved_by_class(lambda: Block()(x))
    rows = 5 * 4
    # the norm saves x, a mean and a deviation; up its input; tanh its result, which down saves too
    assert found == {"elementwise": 16 * rows, "norm": (8 + 2) * rows, "linear": 8 * rows}


@pytest.fixture(scope="module")
def measured() -> Any:
    torch.manual_seed(0)
    compiled = laser_fx.compile(Contractive().eval(), (low_rank(64, 32),), options=Options(fidelity=0.99))
    return compiled, measure_memory(compiled.program, compiled_copy)


def test_arms_begin_with_eager_and_agree_with_the_report(measured: tuple[CompiledModel, Any]) -> None:
    compiled, found = measured
    assert [arm.name for arm in found.arms] == ["eager", "laser", "lean", "min"]
    assert found.warnings == ()
    assert found.plan is None
    saved = compiled.report(measure=()).saved_bytes
    assert saved is not None
    assert (found.arms[0].total, found.arms[1].total) == (saved.eager, saved.laser)
    assert found.arms[0].time == 1.0
    assert found.arms[3].total < found.arms[0].total
    assert [arm.gradient_error for arm in found.arms] == [0.0, None, 0.0, 0.0]
    assert all(arm.time > 0 for arm in found.arms)


def test_a_plan_of_the_programs_own_is_an_arm_and_in_the_report() -> None:
    options = Options.exact(memory=0.5)
    compiled = laser_fx.compile(Contractive().eval(), (torch.randn(6, 32),), options=options)
    found = measure_memory(compiled.program, compiled_copy)
    assert [arm.name for arm in found.arms] == ["eager", "laser", "lean", "min", "0.5"]
    assert found.plan is not None
    assert found.plan.after == pytest.approx(found.arms[-1].total, rel=0.02)
    compiled.train()(torch.randn(6, 32))
    assert compiled.report(training=False).plan == compiled.plan is not None


def test_an_arm_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(model: nn.Module, options: Options) -> CompiledModel:
        if options.memory == "lean":
            raise PassError("no plan today", where="here")
        return compiled_copy(model, options)

    compiled = laser_fx.compile(Contractive().eval(), (torch.randn(6, 32),), options=Options.exact())
    monkeypatch.setattr(memory, "_REPEATS", 1)
    found = measure_memory(compiled.program, refusing)
    assert [arm.name for arm in found.arms] == ["eager", "laser", "min"]
    assert found.warnings == ("memory 'lean' is not measured: no plan today",)


def test_nothing_that_is_trained_has_no_arms() -> None:
    module = Contractive().eval().requires_grad_(False)
    compiled = laser_fx.compile(module, (torch.randn(6, 32),), options=Options.exact())
    assert measure_memory(compiled.program, compiled_copy).arms == ()
