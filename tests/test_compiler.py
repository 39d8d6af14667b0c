from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import CaptureError, InputError, NoLoopWarning, NonFiniteError, OptionError
from laser_fx.loops import Step
from laser_fx.memory.measure import saved_bytes
from laser_fx.options import Options
from laser_fx.zoo.trm import TRM, Solve
from tests.nests import CASES
from tests.small import WIDTH, Contractive, Parts, backward, exact, looped, low_rank, model, same, small_trm, trm_batch


@pytest.mark.filterwarnings("ignore::laser_fx.errors.NoLoopWarning")
@pytest.mark.parametrize("name", CASES)
def test_exact_evaluation_equals_eager_bitwise(name: str) -> None:
    module = model(CASES[name].forward)
    compiled = exact(module, torch.randn(4, WIDTH))
    assert compiled.loops.trips() == CASES[name].trips
    for rows in (4, 1, 6):
        x = torch.randn(rows, WIDTH)
        with torch.no_grad():
            assert same(compiled(x), module(x)), rows


@pytest.mark.filterwarnings("ignore::laser_fx.errors.NoLoopWarning")
@pytest.mark.parametrize("name", CASES)
def test_exact_training_equals_eager_bitwise(name: str) -> None:
    module = model(CASES[name].forward).train()
    compiled = laser_fx.compile(module, options=Options.exact())
    for rows in (4, 1, 6):
        x = torch.randn(rows, WIDTH)
        assert same(backward(compiled, module, x), backward(module, module, x)), rows
        if rows == 4:
            assert compiled.loops.trips() == CASES[name].training_trips


def describe(compiled: CompiledModel) -> list[tuple[int, int, int, int]]:
    """Trips, carries, invariants and parameters of each loop."""
    return [(o.trip_count, len(o.carry), len(o.invariants), len(o.parameters)) for o in compiled.loops.walk()]


def solve_step(trm: TRM, run: Any, size: int) -> Any:
    batch = trm_batch(size)
    return run(trm.initial_carry(batch), batch)


# Invariants of H: the embedding, and with rotary attention cos and sin; L adds z_H.
@pytest.mark.parametrize(
    ("changes", "nest"),
    [
        ({"H_cycles": 3}, [(3, 2, 3, 4), (2, 1, 4, 4)]),
        ({"L_cycles": 3, "L_layers": 2}, [(2, 2, 3, 8), (3, 1, 4, 8)]),
        ({"mlp_t": True, "H_cycles": 2, "L_cycles": 6}, [(2, 2, 1, 4), (6, 1, 2, 4)]),
        ({"mlp_t": True, "H_cycles": 4, "L_layers": 2}, [(4, 2, 1, 8), (2, 1, 2, 8)]),
        ({"H_cycles": 1, "L_cycles": 3}, [(3, 1, 4, 4)]),
    ],
    ids=str,
)
def test_an_inference_step_of_the_trm_is_h_around_l(changes: dict[str, Any], nest: list[tuple[int, ...]]) -> None:
    trm = small_trm(**changes)
    compiled = laser_fx.compile(trm, options=Options.exact())
    with torch.no_grad():
        for size in (3, 1, 5):
            torch.manual_seed(size)
            expected = solve_step(trm, trm, size)
            torch.manual_seed(size)
            assert same(solve_step(trm, compiled, size), expected)
            if size == 3:
                assert describe(compiled) == nest
    assert all(re.fullmatch(r"zoo/trm\.py:\d+", loop.source or "") for loop in compiled.loops.walk())


@pytest.mark.parametrize(("steps", "mlp_t"), [(2, False), (3, True)])
def test_a_solve_is_act_around_h_around_l(steps: int, mlp_t: bool) -> None:
    solve = Solve(small_trm(mlp_t=mlp_t), steps=steps).eval()
    inputs = trm_batch(3)["inputs"]
    compiled = exact(solve, inputs)
    assert compiled.loops.trips() == ((0, steps), (1, 2), (2, 2))
    with torch.no_grad():
        assert same(compiled(inputs), solve(inputs))


@pytest.mark.slow
def test_a_solve_of_sixteen_steps() -> None:
    solve = Solve(small_trm(mlp_t=True), steps=16).eval()
    inputs = trm_batch(3)["inputs"]
    compiled = exact(solve, inputs)
    assert compiled.loops.trips() == ((0, 16), (1, 2), (2, 2))
    with torch.no_grad():
        assert same(compiled(inputs), solve(inputs))


def training_step(trm: TRM, run: Any, size: int) -> tuple[Any, dict[str, Tensor | None]]:
    torch.manual_seed(size)
    trm.zero_grad()
    _, outputs = solve_step(trm, run, size)
    (outputs["logits"].square().sum() + outputs["q_halt_logits"].sum()).backward()
    grads = {name: p.grad if p.grad is None else p.grad.clone() for name, p in trm.named_parameters()}
    return {name: value.detach() for name, value in outputs.items()}, grads


@pytest.mark.parametrize(
    ("changes", "loops"),
    [
        ({"H_cycles": 3}, [(0, 2, False), (1, 2, False), (0, 2, True)]),
        ({"H_cycles": 2, "L_cycles": 3, "mlp_t": True}, [(0, 3, False), (0, 3, True)]),
        ({"H_cycles": 3, "full_gradient": True, "mlp_t": True}, [(0, 3, True), (1, 2, True)]),
    ],
    ids=str,
)
def test_training_the_trm_keeps_its_no_grad_region(changes: dict[str, Any], loops: list[tuple[int, int, bool]]) -> None:
    trm = small_trm(**changes).train()
    compiled = laser_fx.compile(trm, options=Options.exact())
    for size in (3, 1):
        assert same(training_step(trm, compiled, size), training_step(trm, trm, size))
        if size == 3:
            levels = [level for level, _ in compiled.loops.trips()]
            walked = [(loop.trip_count, loop.grad_enabled) for loop in compiled.loops.walk()]
            assert [(level, *rest) for level, rest in zip(levels, walked, strict=True)] == loops


def test_it_compiles_at_the_first_call_or_with_example_inputs_at_once() -> None:
    x = torch.randn(4, WIDTH)
    late = laser_fx.compile(looped())
    with pytest.raises(InputError, match="nothing is compiled yet"):
        late.loops  # noqa: B018
    assert laser_fx.compile(looped(), (x,)).loops.trips() == ((0, 4),)
    with torch.no_grad():
        late(x)
    assert late.loops.trips() == ((0, 4),)


def test_it_stands_in_for_the_model() -> None:
    module = looped()
    module.threshold = 3
    compiled = laser_fx.compile(module, options=Options.exact())
    assert compiled.state_dict().keys() == module.state_dict().keys()
    assert all(p is q for p, q in zip(compiled.parameters(), module.parameters(), strict=True))
    assert compiled.threshold == 3
    assert not compiled.training
    compiled.train()
    assert module.training
    assert module.a.training
    compiled.eval()
    assert not module.training
    compiled.to(torch.float64)
    assert module.a.weight.dtype == torch.float64
    with torch.no_grad():
        x = torch.randn(4, WIDTH, dtype=torch.float64)
        assert same(compiled(x), module(x))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        compiled.missing  # noqa: B018


def test_loading_a_state_dict_reaches_the_compiled_model() -> None:
    module, x = looped(), torch.randn(4, WIDTH)
    compiled = exact(module, x)
    compiled.load_state_dict(looped().state_dict())
    with torch.no_grad():
        assert same(compiled(x), module(x))


def test_a_deep_copy_has_weights_of_its_own() -> None:
    module, x = looped(), torch.randn(4, WIDTH)
    compiled = exact(module, x)
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        before = compiled(x)
        twin.a.weight.zero_()
        assert same(compiled(x), before)
        assert not same(twin(x), before)


def test_other_dtypes_and_sizes_are_compiled_anew_and_other_batches_are_not() -> None:
    module = looped()
    compiled = exact(module, torch.randn(4, WIDTH))
    first = compiled.program
    with torch.no_grad():
        compiled(torch.randn(9, WIDTH))
        assert compiled.program is first
        compiled(torch.randn(2, 3, WIDTH))
        second = compiled.program
        assert second is not first
        module.double()
        x = torch.randn(4, WIDTH, dtype=torch.float64)
        assert same(compiled(x), module(x))
        assert compiled.program not in (first, second)


def recorded(compiled: CompiledModel) -> dict[str, tuple[Step, ...]]:
    return {report.site.key: report.steps for report in compiled.report(training=False).sites}


def test_no_step_uses_a_basis_below_the_fidelity() -> None:
    module, x = Contractive().eval(), low_rank(2, 24, 32)
    compiled = laser_fx.compile(module, (x,), options=Options(fidelity=0.99, sites="all"))
    with torch.no_grad():
        output, expected = compiled(x), module(x)
        compiled(torch.randn(2, 24, 32))
    report = compiled.report(training=False)
    for site in report.sites:
        assert len(site.steps) == 6
        assert all(step.exact or step.fidelity >= 0.99 for step in site.steps)
    assert (output - expected).norm() < 0.1 * expected.norm()


def test_the_output_is_close_and_the_basis_is_tracked_where_the_activations_have_low_rank() -> None:
    module, x = Contractive().eval(), low_rank(2, 24, 32)
    compiled = laser_fx.compile(module, (x,), options=Options(fidelity=0.9999, sites="all"))
    with torch.no_grad():
        output, expected = compiled(x), module(x)
    steps = recorded(compiled)
    assert steps.keys() == {"loop_0:up", "loop_0:down"}
    assert all(not step.exact for site in steps.values() for step in site)
    assert all(site[0].reset for site in steps.values())
    assert not all(step.reset for step in steps["loop_0:up"])
    assert all(site.rank < site.features for site in compiled.sites if site.rank is not None)
    assert (output - expected).norm() < 0.03 * expected.norm()


def test_fidelity_one_is_the_exact_result() -> None:
    module, x = Contractive().eval(), torch.randn(2, 24, 32)
    compiled = laser_fx.compile(module, (x,), options=Options(fidelity=1.0, sites="all"))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x), atol=1e-5, rtol=1e-5)


def test_training_is_exact_forward_and_saves_less_at_a_wide_site() -> None:
    module, x = Contractive(features=32, wide=256).train(), low_rank(2, 48, 32)
    compiled = laser_fx.compile(module, options=Options(fidelity=0.999))
    plain = laser_fx.compile(module, options=Options(memory=None))
    (output, grads), (expected, true) = backward(compiled, module, x), backward(module, module, x)
    assert same(output, expected)
    for approximate, wanted in zip(grads, true, strict=True):
        assert (approximate - wanted).norm() <= 0.1 * wanted.norm()
    assert saved_bytes(lambda: compiled(x), exclude=[x]) < 0.8 * saved_bytes(lambda: plain(x), exclude=[x])
    steps = recorded(compiled)
    assert all(step.fidelity >= 0.999 or step.exact for site in steps.values() for step in site)


def test_memory_none_leaves_the_gradients_alone() -> None:
    module, x = Contractive().train(), torch.randn(3, 32)
    compiled = laser_fx.compile(module, options=Options(memory=None))
    assert same(backward(compiled, module, x), backward(module, module, x))


def test_evaluation_with_gradients_on_is_exact_forward() -> None:
    module, x = Contractive().eval(), low_rank(4, 32)
    compiled = laser_fx.compile(module, options=Options(fidelity=0.9))
    assert same(compiled(x).detach(), module(x).detach())


def test_the_report_says_what_was_found_and_what_it_saves() -> None:
    x = low_rank(2, 24, 32)
    compiled = laser_fx.compile(Contractive().eval(), (x,), options=Options(fidelity=0.999, sites="all"))
    with torch.no_grad():
        compiled(x)
    report = compiled.report()
    assert report.loops.trips() == ((0, 6),)
    assert [s.site.name for s in report.sites] == ["up", "down"]
    assert all(len(s.steps) == 6 and s.site.rank for s in report.sites)
    assert report.saved_bytes is not None
    assert report.saved_bytes.eager > 0


@pytest.mark.parametrize("training", [False, True])
def test_inspect_leaves_the_model_as_it_was(training: bool) -> None:
    module, x = Contractive().train(training), torch.randn(4, 32)
    before = copy.deepcopy(module.state_dict())
    children = dict(module.named_modules())
    report = laser_fx.inspect(module, x)
    assert report.loops.trips() == ((0, 6),)
    assert module.training is training
    assert same(module.state_dict(), before)
    assert dict(module.named_modules()) == children
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("use", ["export", "calibrate"])
def test_what_looks_at_an_evaluation_leaves_every_module_in_its_mode(use: str, tmp_path: Path) -> None:
    module, x = Contractive(trips=3).train(), low_rank(24, 32)
    module.down.eval()  # as who trains on with frozen statistics does
    compiled = laser_fx.compile(module, options=Options.exact())
    compiled(x).sum().backward()
    if use == "export":
        compiled.to_onnx(tmp_path / "m.onnx", verify=False)
    else:
        with pytest.raises(InputError):  # one class alone: what an evaluation says is looked at first
            laser_fx.calibrate(module, [(torch.zeros(4, 32),)] * 3)
    assert [part.training for part in module.modules()] == [True, True, False]


def test_a_model_whose_steps_take_rows_of_a_parameter_is_inspected() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for i in range(4):
            z = torch.tanh(self.a(z) + self.rows[i])
        return z

    report = laser_fx.inspect(model(forward), torch.randn(3, WIDTH), measure=())
    assert report.flops is not None
    assert report.flops.total == report.flops.sites == 4 * 2 * 3 * WIDTH * WIDTH


def test_a_report_of_an_inference_mode_is_that_of_any_other() -> None:
    module, x = Contractive(trips=3), low_rank(64, 32)
    wanted = laser_fx.inspect(module, x, measure=())
    with torch.inference_mode():
        made_inside = x.clone()
        assert laser_fx.inspect(module, made_inside, measure=()).saved_bytes == wanted.saved_bytes
    assert laser_fx.inspect(module, made_inside, measure=()).saved_bytes == wanted.saved_bytes


def test_a_model_that_does_not_train_is_inspected_and_the_report_says_so() -> None:
    class ForEvaluation(Contractive):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training, "for evaluation alone"
            return super().forward(x)

    report = laser_fx.inspect(ForEvaluation(trips=3), torch.ones(4, 32), measure="memory")
    assert report.saved_bytes is None
    assert report.warnings == (
        "what training saves is not measured, training fails: for evaluation alone",
        "memory is not measured, training fails: for evaluation alone",
    )


def test_bytes_of_a_training_step_are_those_of_the_program_s_autocast() -> None:
    x = low_rank(64, 32)
    compiled = laser_fx.compile(Contractive(trips=3), options=Options(rank=4, fidelity=0.5))
    with torch.autocast("cpu", torch.bfloat16):
        compiled(x).sum().backward()
        inside = compiled.report(measure=())
    assert compiled.report(measure=()).saved_bytes == inside.saved_bytes


def test_inspect_says_that_one_row_was_measured_as_two() -> None:
    module = Contractive()
    one, two = (laser_fx.inspect(module, torch.ones(rows, 32), measure=()) for rows in (1, 2))
    assert one.flops == two.flops
    assert [warning.partition(",")[0] for warning in one.warnings] == ["the example is a batch of one"]
    assert two.warnings == ()


class Branching(Parts):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the branch
            x = x * 2
        return self.a(x)


def line_of(marker: str) -> str:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"{__file__}:{next(n for n, line in enumerate(lines, 1) if line.endswith(marker))}"


def test_a_branch_on_data_is_refused_with_its_line() -> None:
    with pytest.raises(CaptureError, match="cannot trace") as raised:
        laser_fx.compile(Branching().eval(), (torch.randn(3, WIDTH),))
    assert line_of("# the branch") in str(raised.value.where)
    assert "torch.where" in str(raised.value.fix)


def test_inputs_that_the_model_rejects_are_an_input_error() -> None:
    with pytest.raises(InputError, match="the model fails on these inputs: mat1 and mat2"):
        laser_fx.compile(looped(), (torch.randn(3, WIDTH + 1),))
    with pytest.raises(InputError, match="unexpected keyword argument"):
        laser_fx.compile(looped(), (), {"y": torch.randn(3, WIDTH)})


def test_a_call_without_tensors_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no tensor input"):
        laser_fx.compile(looped(), (3,))


def test_nan_in_an_input_is_named() -> None:
    x = torch.randn(3, WIDTH)
    x[1, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="1 of 24 values are NaN") as raised:
        laser_fx.compile(looped(), (x,))
    assert raised.value.where == "input x"


def test_nan_in_a_weight_is_named() -> None:
    module = looped()
    with torch.no_grad():
        module.a.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="1 of 64 values are NaN or infinite") as raised:
        laser_fx.compile(module, (torch.randn(3, WIDTH),))
    assert raised.value.where == "weight a.weight"


def test_nan_after_compilation_is_traced_to_the_tensor() -> None:
    module, x = Contractive().eval(), torch.randn(4, 32)
    compiled = laser_fx.compile(module, (x,))
    with torch.no_grad():
        with pytest.raises(NonFiniteError) as raised:
            compiled(x.index_fill(0, torch.tensor([1]), float("nan")))
        assert raised.value.where == "input x"
        module.up.weight[0, 0] = float("nan")
        with pytest.raises(NonFiniteError) as raised:
            compiled(x)
        assert raised.value.where == "weight up.weight"


def test_an_overflow_inside_the_loop_names_site_and_step() -> None:
    class Growing(Contractive):
        def forward(self, x: Tensor) -> Tensor:
            z = x
            for _ in range(6):
                z = self.down(self.up(z) * 1e12)
            return z

    compiled = laser_fx.compile(Growing().eval(), (torch.randn(4, 32),), options=Options(rank=4, sites="all"))
    with torch.no_grad(), pytest.raises(NonFiniteError, match=r"became NaN at step \d") as raised:
        compiled(torch.randn(4, 32))
    assert str(raised.value.where).startswith("site loop_0:")


def test_a_model_without_loops_runs_as_it_is_with_a_warning() -> None:
    module, x = nn.Linear(WIDTH, WIDTH).eval(), torch.randn(3, WIDTH)
    compiled = laser_fx.compile(module)
    with torch.no_grad():
        with pytest.warns(NoLoopWarning, match="Linear has no loop"):
            output = compiled(x)
        assert same(output, module(x))
    assert not compiled.loops
    assert compiled.sites == ()


def test_what_is_no_module_or_no_options_is_refused() -> None:
    with pytest.raises(InputError, match="the model is a function"):
        laser_fx.compile(lambda x: x)  # type: ignore[arg-type]
    for use in (laser_fx.compile, laser_fx.inspect):
        with pytest.raises(OptionError, match="options is a dict"):
            use(looped(), (torch.ones(3, WIDTH),), options={"rank": 3})  # type: ignore[operator]
    with pytest.raises(OptionError, match="measure is a NoneType"):
        laser_fx.inspect(looped(), (torch.ones(3, WIDTH),), measure=None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_without_values_or_without_python_is_refused() -> None:
    x = torch.ones(3, WIDTH)
    with pytest.raises(InputError, match=r"0\.weight is not made yet"):
        laser_fx.compile(nn.Sequential(nn.LazyLinear(WIDTH)))
    with pytest.raises(InputError, match="TorchScript"):
        laser_fx.inspect(torch.jit.trace(looped(), x), x)
    with pytest.raises(InputError, match="x is on the device meta"):
        laser_fx.inspect(looped(), x.to("meta"))
    with pytest.raises(InputError, match="rows is on the device meta"):
        laser_fx.compile(looped().to("meta"), (x,))


def test_writing_in_place_under_gradients_is_refused() -> None:
    class InPlace(Parts):
        def forward(self, x: Tensor) -> Tensor:
            z = x
            for _ in range(3):
                z = self.a(z).relu_()
            return z

    with pytest.raises(CaptureError, match="writes into its input") as raised:
        laser_fx.compile(InPlace().train(), (torch.randn(3, WIDTH),))
    assert "inplace=False" in str(raised.value.fix)
    module, x = InPlace().eval(), torch.randn(3, WIDTH)
    with torch.no_grad():
        assert same(exact(module, x)(x), module(x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_each_mode_has_a_program_of_its_own(training: bool, gradients: bool) -> None:
    module, x = looped().train(training), torch.randn(4, WIDTH)
    compiled = laser_fx.compile(module, options=Options.exact())
    with torch.set_grad_enabled(gradients):
        assert same(compiled(x).detach(), module(x).detach())
    assert compiled.program.mode.training is training
    assert compiled.program.mode.grad_enabled is gradients


def test_other_options_keep_what_was_captured_and_proved() -> None:
    model, x = Contractive().eval(), low_rank(2, 24, 32)
    plain = laser_fx.compile(model, (x,), options=Options.exact())
    tracked = plain.with_options(Options(fidelity=0.9, sites="all"))
    assert tracked.program.rolled is plain.program.rolled
    assert tracked.loops.trips() == plain.loops.trips()
    assert all(site.rank for site in tracked.sites)
    assert plain.program.record_names == ()
    with torch.no_grad():
        assert torch.equal(tracked.with_options(Options.exact())(x), model(x))
        assert torch.equal(tracked(x), laser_fx.compile(model, (x,), options=Options(fidelity=0.9, sites="all"))(x))


def test_other_options_cannot_change_what_a_loop_is() -> None:
    compiled = laser_fx.compile(looped(), (torch.randn(8, WIDTH),), options=Options.exact())
    with pytest.raises(OptionError, match="min_trip"):
        compiled.with_options(Options(min_trip=5))


def test_the_warning_that_there_is_no_loop_points_at_the_call() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with torch.no_grad(), pytest.warns(NoLoopWarning) as caught:
        laser_fx.compile(module)(torch.ones(2, 4))
    assert caught[0].filename == __file__
