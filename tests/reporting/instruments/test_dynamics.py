from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.options import Options
from laser_fx.reporting import Report, prose
from laser_fx.reporting.instruments import dynamics
from laser_fx.reporting.instruments.dynamics import measure_dynamics
from laser_fx.reporting.instruments.jacobian import Jacobian
from laser_fx.reporting.instruments.watch import Runner, Watcher, watch
from laser_fx.reporting.measured import LoopDynamics
from laser_fx.rolled import RolledLoop
from tests.small import Contractive, Counting


class Linear(nn.Module):
    """``z ← Az + b(x)``: the Jacobian is A at every step."""

    def __init__(self, matrix: Tensor, trips: int = 5) -> None:
        super().__init__()
        self.matrix, self.trips = nn.Parameter(matrix), trips

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(self.trips):
            z = torch.nn.functional.linear(z, self.matrix) + x
        return z


def measured(module: nn.Module, *inputs: Tensor, steps: int = 3) -> tuple[LoopDynamics, ...]:
    compiled = laser_fx.compile(module.eval(), inputs, options=Options.exact())
    return measure_dynamics(compiled.program, steps)


ROTATION = torch.tensor([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 0.5]])
MATRICES = {
    "contracting": (torch.diag(torch.tensor([0.9, 0.5, 0.1])), 0.9),
    "expanding": (torch.diag(torch.tensor([-1.5, 0.5, 0.1])), 1.5),
    "rotating": (ROTATION, 1.0),
    "defective": (torch.tensor([[0.7, 1.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.2]]), 0.7),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_linear_loop_has_the_eigenvalues_of_its_matrix(name: str) -> None:
    matrix, radius = MATRICES[name]
    (found,) = measured(Linear(matrix), torch.randn(2, 3))
    assert (found.loop, found.size, found.not_measured) == ("loop_0", 6, None)
    assert [step.step for step in found.steps] == [0, 2, 4]
    for step in found.steps:
        # Products are float32; an eigenvalue of a Jordan block moves by the square root of that.
        assert step.radius == pytest.approx(radius, abs=2e-3 if name == "defective" else 1e-5)
        assert step.norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)
        assert max(step.residuals) < 1e-3
    assert found.contracting is (None if name == "rotating" else radius < 1.0)
    if name == "rotating":
        assert found.steps[0].eigenvalues[0] == pytest.approx((0.6, 0.8), abs=1e-5)
        assert found.steps[0].eigenvalues[1] == pytest.approx((0.6, -0.8), abs=1e-5)


def test_nothing_is_said_to_contract_whose_eigenvalues_were_not_found() -> None:
    orthogonal = torch.linalg.qr(torch.randn(100, 100))[0]  # all of modulus 1, and Arnoldi finds them late
    (found,) = measured(Linear(orthogonal), torch.randn(2, 100), steps=1)
    assert found.steps[-1].radius < 0.999
    assert found.contracting is None
    report = Report("Linear", dynamics=(found,))
    assert "undecided" in str(report)
    assert prose.found(report) == [
        "loop_0 may or may not contract at the last step measured: the largest eigenvalue of its Jacobian has modulus"
        f" about {found.steps[-1].radius:.3g}."
    ]


class Detached(Linear):
    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(4):
            z = torch.nn.functional.linear(z.detach(), self.matrix) + x
        return z


@pytest.mark.parametrize("training", [False, True])
def test_a_state_that_is_detached_moves_as_any_other_one(training: bool) -> None:
    module = Detached(ROTATION * 0.9).train(training)
    compiled = laser_fx.compile(module, (torch.randn(2, 3),), options=Options.exact())
    assert compiled.program.mode.grad_enabled is training
    (found,) = measure_dynamics(compiled.program, 1)
    assert found.steps[0].radius == pytest.approx(0.9, abs=1e-5)


class Explicit(Watcher):
    """Makes the whole Jacobian of some steps, by reverse mode."""

    def __init__(self, steps: dict[str, list[int]]) -> None:
        self.steps = steps
        self.found: dict[tuple[str, int], Tensor] = {}

    def before_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any]) -> None:
        if step not in self.steps[loop.name]:
            return
        jacobian = Jacobian(Runner(loop.body).run, inputs, dynamics._floating(loop))

        def flat(vector: Tensor) -> Tensor:
            return torch.cat([part.reshape(-1) for part in jacobian._next(*jacobian._split(vector))])

        point = torch.cat([state.reshape(-1) for state in jacobian.states])
        with sdpa_kernel(SDPBackend.MATH):
            self.found[loop.name, step] = torch.func.jacrev(flat)(point).double()


def test_every_loop_of_a_trm_has_the_eigenvalues_of_its_explicit_jacobian(trm: CompiledModel) -> None:
    found = measure_dynamics(trm.program, 2)
    explicit = Explicit({one.loop: [step.step for step in one.steps] for one in found})
    watch(trm.program, trm.program.rolled, explicit)
    assert [one.loop for one in found] == [loop.name for loop in trm.loops.walk()]
    for one in found:
        assert len(one.steps) == 2
        for step in one.steps:
            matrix = explicit.found[one.loop, step.step]
            assert one.size == len(matrix)
            values = torch.linalg.eigvals(matrix)
            assert step.radius == pytest.approx(float(values.abs().max()), rel=1e-3)
            for (real, imaginary), residual in zip(step.eigenvalues, step.residuals, strict=True):
                if residual < 1e-5:
                    assert float((values - complex(real, imaginary)).abs().min()) < 1e-2 * step.radius
            norm = float(torch.linalg.matrix_norm(matrix, 2))
            assert step.norm is not None
            assert 0.9 * norm < step.norm <= norm * (1 + 1e-5)


def test_both_ways_to_a_product_agree(contractive: CompiledModel) -> None:
    class Products(Watcher):
        def before_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any]) -> None:
            jacobian = Jacobian(Runner(loop.body).run, inputs, (0,))
            v, u = torch.randn(jacobian.size).double(), torch.randn(jacobian.size).double()
            forward = jacobian._joined(jacobian._forward_mode(*jacobian._split(v)))
            torch.testing.assert_close(jacobian.product(v), forward, atol=1e-5, rtol=1e-4)
            assert float(jacobian.product(v) @ u) == pytest.approx(float(jacobian.transposed(u) @ v), rel=1e-3)

    watch(contractive.program, contractive.program.rolled, Products())


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * ctx.saved_tensors[0].cos()


def test_forward_mode_serves_where_there_is_no_second_derivative() -> None:
    state = torch.randn(4)
    jacobian = Jacobian(lambda z: (OnceOnly.apply(z),), (state,), (0,))
    v = torch.randn(4).double()
    torch.testing.assert_close(jacobian.product(v), v * state.double().cos(), atol=1e-6, rtol=1e-6)


class Noisy(Contractive):
    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(4):
            z = self.down(torch.tanh(self.up(z))) + torch.rand_like(z)
        return z


class Dropping(Contractive):
    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(4):
            z = torch.nn.functional.dropout(self.down(torch.tanh(self.up(z))), 0.5, self.training)
        return z


def test_dropout_is_no_obstacle_in_evaluation() -> None:
    (found,) = measured(Dropping(), torch.randn(3, 32))
    assert found.not_measured is None
    assert found.steps


def test_what_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    (empty,) = measured(Contractive(), torch.randn(0, 32))
    assert empty.not_measured == "what is carried holds no number: the example inputs are empty"
    (random,) = measured(Noisy(), torch.randn(3, 32))
    assert random.not_measured == "the body draws random numbers"
    monkeypatch.setattr(dynamics, "_LARGEST", 10)
    (large,) = measured(Contractive(), torch.randn(3, 32))
    assert large.not_measured is not None
    assert large.not_measured.startswith("96 numbers are carried, more than 10")
    assert (large.size, large.steps, large.contracting) == (96, (), None)


def test_a_jacobian_that_is_not_finite_is_refused() -> None:
    (found,) = measured(Linear(torch.eye(3)), torch.full((2, 3), 1e38))
    assert found.steps  # linear: the state may overflow, the Jacobian does not

    class Overflowing(Linear):
        def forward(self, x: Tensor) -> Tensor:
            z = x
            for _ in range(4):
                z = torch.nn.functional.linear(z, self.matrix).exp().exp().sqrt()
            return z

    (found,) = measured(Overflowing(torch.eye(3)), torch.full((2, 3), 6.0))
    assert found.not_measured == "step 0 cannot be differentiated: its Jacobian is not finite"
    (later,) = measured(Overflowing(torch.eye(3)), torch.full((2, 3), 0.5))
    assert [step.step for step in later.steps] == [0]
    assert later.not_measured == "step 2 cannot be differentiated: its Jacobian is not finite"
    assert later.contracting is None  # the last step is the one that it is about


def test_integers_are_fixed_and_left_out() -> None:
    (found,) = measured(Counting(), torch.randn(3, 32))
    assert found.size == 96
    assert len(found.steps) == 3


def test_half_precision_is_measured_in_float32() -> None:
    matrix = MATRICES["rotating"][0]
    (found,) = measured(Linear(matrix).to(torch.bfloat16), torch.randn(2, 3).to(torch.bfloat16))
    # The weights themselves are rounded to three digits.
    assert found.steps[-1].radius == pytest.approx(1.0, abs=1e-2)
    assert max(found.steps[-1].residuals) < 1e-4
