"""`torch.compile(model, backend="laser_fx")`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laser_fx import programs
from laser_fx.backend import Backend, backend
from laser_fx.errors import CaptureError, NonFiniteError, OptionError
from laser_fx.options import Options
from tests.nests import CASES
from tests.small import WIDTH, Contractive, Parts, backward, looped, low_rank, model, same, small_trm, trm_batch

ROWS = 4
EXACT = {"forward": "exact", "memory": None}


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def laser() -> Backend:
    return Backend(Options.exact())


def trips(laser: Backend) -> list[tuple[tuple[int, int], ...]]:
    return [program.nest.trips() for program in laser.programs]


def test_torch_finds_it_by_name() -> None:
    (found,) = entry_points(group="torch_dynamo_backends", name="laser_fx")
    assert found.load() is backend
    assert "laser_fx" in torch.compiler.list_backends()


def test_it_takes_options_by_name(caplog: pytest.LogCaptureFixture) -> None:
    module, x = looped(), torch.randn(ROWS, WIDTH)
    compiled = torch.compile(module, backend="laser_fx", options=EXACT)
    with torch.no_grad(), caplog.at_level(logging.INFO, "laser_fx"):
        assert same(compiled(x), module(x))
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "backend_graph"]
    assert told == ["one of dynamo's graphs has the loops ((0, 4),) and 1 sites"]


@pytest.mark.parametrize(
    ("given", "message"),
    [({"fidelty": 0.9}, "there is no option fidelty"), ({"rank": 0}, "rank is 0")],
    ids=["unknown", "out of range"],
)
def test_bad_options_are_refused(given: dict[str, Any], message: str) -> None:
    compiled = torch.compile(looped(), backend="laser_fx", options=given)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=message) as raised:
        compiled(torch.randn(ROWS, WIDTH))
    assert isinstance(raised.value.inner_exception, OptionError)


def test_a_mode_is_refused() -> None:
    compiled = torch.compile(looped(), backend="laser_fx", mode="max-autotune")
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="laser_fx has no modes"):
        compiled(torch.randn(ROWS, WIDTH))


@pytest.mark.parametrize("name", CASES)
def test_evaluation_and_training_equal_eager_bitwise(name: str, laser: Backend) -> None:
    module, x = model(CASES[name].forward), torch.randn(ROWS, WIDTH)
    compiled = torch.compile(module, backend=laser, fullgraph=True)
    with torch.no_grad():
        assert same(compiled(x), module(x))
    assert trips(laser) == [CASES[name].trips]
    module.train()
    assert same(backward(compiled, module, x), backward(module, module, x))
    assert trips(laser)[1:] == [CASES[name].training_trips]


def test_gradients_land_on_the_parameters(laser: Backend) -> None:
    module, x = looped().train(), torch.randn(ROWS, WIDTH)
    compiled, optimizer = torch.compile(module, backend=laser), torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        assert same(backward(compiled, module, x), backward(module, module, x))
        optimizer.step()
    assert len(laser.programs) == 1


def test_the_nest_of_the_trm_is_found(laser: Backend) -> None:
    trm, batch = small_trm(H_cycles=3), trm_batch(3)
    compiled = torch.compile(trm, backend=laser)
    with torch.no_grad():
        assert same(compiled(trm.initial_carry(batch), batch), trm(trm.initial_carry(batch), batch))
    (program,) = laser.programs
    assert program.nest.trips() == ((0, 3), (1, 2))
    assert all((loop.source or "").startswith("zoo/trm.py:") for loop in program.nest.walk())
    assert program.sites[0].name == "inner.L_level.layers.0.self_attn.qkv_proj"
    assert program.sites[0].weight in trm.state_dict()


def test_training_the_trm_keeps_its_no_grad_region(laser: Backend) -> None:
    trm = small_trm(H_cycles=3, mlp_t=True).train()
    compiled = torch.compile(trm, backend=laser)

    def step(run: Any) -> Any:
        torch.manual_seed(1)
        trm.zero_grad()
        batch = trm_batch(3)
        _, outputs = run(trm.initial_carry(batch), batch)
        outputs["logits"].square().sum().backward()
        return outputs["logits"].detach(), {
            n: p.grad if p.grad is None else p.grad.clone() for n, p in trm.named_parameters()
        }

    assert same(step(compiled), step(trm))
    assert any(not loop.grad_enabled for program in laser.programs for loop in program.nest.walk())
    assert any(loop.grad_enabled for program in laser.programs for loop in program.nest.walk())


def test_sizes_that_dynamo_leaves_free_stay_free(laser: Backend) -> None:
    module = looped()
    compiled = torch.compile(module, backend=laser, dynamic=True)
    with torch.no_grad():
        for rows in (4, 6, 9):
            x = torch.randn(rows, WIDTH)
            assert same(compiled(x), module(x))
    assert trips(laser) == [((0, 4),)]


def test_a_size_that_is_marked_is_free_from_the_first_call_on(laser: Backend) -> None:
    module = looped()
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        for rows in (4, 6):
            x = torch.randn(rows, 3, WIDTH)
            torch._dynamo.mark_dynamic(x, 0)
            assert same(compiled(x), module(x))
    assert len(laser.programs) == 1


def test_a_marked_size_that_does_not_lead_is_compiled_for_each_value(laser: Backend) -> None:
    module = looped()
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        for columns in (3, 5):
            x = torch.randn(ROWS, columns, WIDTH)
            torch._dynamo.mark_dynamic(x, 1)
            assert same(compiled(x), module(x))
    assert trips(laser) == [((0, 4),)] * 2


def test_a_single_row_is_no_free_size(laser: Backend) -> None:
    module, x = looped(), torch.randn(1, WIDTH)
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        assert same(compiled(x), module(x))
    assert trips(laser) == [((0, 4),)]


class Broken(Parts):
    """Two graphs: a loop in the first, none in the second."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.a(x))
        torch._dynamo.graph_break()
        return self.b(x)


def test_each_graph_is_compiled_alone_and_without_a_warning(laser: Backend) -> None:
    module, x = Broken().eval(), torch.randn(ROWS, WIDTH)
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(compiled(x), module(x))
    assert trips(laser) == [((0, 3),), ()]
    module.train()
    assert same(backward(compiled, module, x), backward(module, module, x))


def test_functions_and_closures_are_compiled_too(laser: Backend) -> None:
    linear, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)

    @torch.compile(backend=laser)
    def function(x: Tensor) -> dict[str, Any]:
        for _ in range(3):
            x = torch.tanh(linear(x))
        return {"x": x, "rows": x.shape[0], "none": None}

    with torch.no_grad():
        assert function(x)["rows"] == ROWS
    assert trips(laser) == [((0, 3),)]
    assert laser.programs[0].sites[0].weight.endswith("weight")


@pytest.mark.parametrize("dynamic", [False, True])
def test_sizes_that_are_returned_are_those_of_the_call(dynamic: bool, laser: Backend) -> None:
    class Sized(Parts):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            for _ in range(3):
                x = torch.tanh(self.a(x))
            return x, x.shape[0] * 2

    module = Sized().eval()
    compiled = torch.compile(module, backend=laser, dynamic=dynamic)
    with torch.no_grad():
        for rows in (4, 6):
            x = torch.randn(rows, WIDTH)
            assert same(compiled(x), module(x))


def test_a_graph_that_writes_into_an_input_runs_as_it_is(laser: Backend) -> None:
    class Writes(Parts):
        def forward(self, x: Tensor) -> Tensor:
            x.add_(1.0)
            for _ in range(3):
                x = torch.tanh(self.a(x))
            return x

    module, x = Writes().eval(), torch.randn(ROWS, WIDTH)
    written = x.clone()
    with torch.no_grad():
        assert same(torch.compile(module, backend=laser)(written), module(x))
    assert torch.equal(written, x)
    assert trips(laser) == []


def test_two_models_of_one_class_keep_their_weights_apart(laser: Backend) -> None:
    first, second, x = Contractive().eval(), Contractive().eval(), torch.randn(ROWS, 32)
    compiled = [torch.compile(module, backend=laser) for module in (first, second)]
    with torch.no_grad():
        for _ in range(2):
            assert same(compiled[0](x), first(x))
            assert same(compiled[1](x), second(x))


def test_weights_that_are_one_are_seen_to_be(laser: Backend) -> None:
    class Tied(Parts):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.untied:
                x = torch.tanh(layer(x))
            return x

    module, x = Tied().eval(), torch.randn(ROWS, WIDTH)
    for layer in module.untied:
        layer.weight, layer.bias = module.a.weight, module.a.bias
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        assert same(compiled(x), module(x))
    assert trips(laser) == [((0, 4),)]


def test_buffers_that_training_updates_are_updated(laser: Backend) -> None:
    class Normed(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = torch.tanh(self.a(x))
            return self.norm(x)

    x = torch.randn(ROWS, WIDTH)
    results = []
    for wrap in (lambda m: m, lambda m: torch.compile(m, backend=laser)):
        torch.manual_seed(1)
        module = Normed().train()
        with torch.no_grad():
            output = wrap(module)(x)
        results.append((output, module.norm.running_mean, module.norm.num_batches_tracked))
    assert same(*results)


def test_a_graph_that_cannot_be_captured_runs_as_it_is_and_says_so_once(
    laser: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise CaptureError("it cannot be traced", fix="leave it")

    monkeypatch.setattr(programs, "program_for", refuse)
    module, x = looped(), torch.randn(ROWS, WIDTH)
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        for _ in range(2):
            assert same(compiled(x), module(x))
    told = [r.getMessage() for r in caplog.records if r.name == "laser_fx" and r.levelno >= logging.WARNING]
    assert told == ["one of dynamo's graphs runs as it is: it cannot be traced\n  fix: leave it"]


def test_low_rank_runs_through_it_and_nan_is_named() -> None:
    module, x = Contractive().eval(), low_rank(2, 24, 32)
    laser = Backend(Options(fidelity=0.999, sites="all"))
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        output, expected = compiled(x), module(x)
        assert not same(output, expected)
        assert (output - expected).norm() < 0.1 * expected.norm()
        assert all(site.rank and site.rank < site.features for site in laser.programs[0].sites)
        with pytest.raises(NonFiniteError):
            compiled(x.index_fill(1, torch.tensor([1]), torch.nan))


def test_dropout_draws_as_eager_does(laser: Backend) -> None:
    class Dropped(Parts):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.dropout(torch.tanh(self.a(x)))
            return x

    module, x = Dropped().train(), torch.randn(ROWS, WIDTH)
    compiled = torch.compile(module, backend=laser)
    assert same(backward(compiled, module, x), backward(module, module, x))
    assert trips(laser) == [((0, 3),)]


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_around_and_inside(inside: bool, laser: Backend) -> None:
    class Cast(Parts):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=inside or torch.is_autocast_enabled("cpu")):
                for _ in range(3):
                    x = torch.tanh(self.a(x))
            return x

    module, x = Cast().eval(), torch.randn(ROWS, WIDTH)
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        output = compiled(x)
        assert same(output, module(x))
    assert output.dtype == torch.bfloat16


def test_parameters_that_are_attributes_of_the_graph_are_weights_too(laser: Backend) -> None:
    module, x = looped(), torch.randn(ROWS, WIDTH)
    run = laser(torch.fx.symbolic_trace(module), [x])
    with torch.no_grad():
        assert same(run(x), module(x))
    assert trips(laser) == [((0, 4),)]
    assert set(laser.programs[0].capture.states.values()) == {"graph.a.weight", "graph.a.bias"}


def test_storms_end_in_the_graph_as_it_is(laser: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LIMIT", 2)
    module = looped()
    compiled = torch.compile(module, backend=laser)
    with torch.no_grad():
        for columns in (3, 5, 7, 9):
            x = torch.randn(ROWS, columns, WIDTH)
            torch._dynamo.mark_dynamic(x, 1)
            assert same(compiled(x), module(x))
    assert len(laser.programs) == 2
