from __future__ import annotations

import gc
import logging
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx import cache, programs
from laser_fx.compiler import CompiledModel
from laser_fx.errors import CaptureError, NonFiniteError
from laser_fx.options import Options
from laser_fx.passes import pipeline
from tests.small import WIDTH, Contractive, Parts, backward, low_rank, same

ROWS = 4


class Looped(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.trips, self.gain, self.unread = 3, 1.0, 0

    def step(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.a(z) * self.gain + x)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        z = x
        for _ in range(self.trips):
            z = self.step(z, x) * scale
        return self.dropout(z)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Grows by one entry for each capture."""
    seen: list[str] = []
    original = pipeline.capture

    def counted(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(model).__name__)
        return original(model, *args, **kwargs)

    monkeypatch.setattr(pipeline, "capture", counted)
    cache.clear()
    yield seen
    cache.clear()


def compiled_once() -> tuple[Looped, CompiledModel, Tensor]:
    model, x = Looped().eval(), torch.randn(ROWS, WIDTH)
    return model, laser_fx.compile(model, (x,), options=Options.exact()), x


def test_compiling_twice_captures_once(captures: list[str]) -> None:
    model, first, x = compiled_once()
    second = laser_fx.compile(model, (torch.randn(ROWS, WIDTH),), options=Options.exact())
    assert len(captures) == 1
    assert second.program.rolled is first.program.rolled
    assert second.loops.trips() == ((0, 3),)
    with torch.no_grad():
        assert same(second(x), model(x))
    assert second.program.model is model


def test_other_options_are_served_from_the_same_capture(captures: list[str]) -> None:
    model, x = Contractive().eval(), low_rank(ROWS, 24, 32)
    exact = laser_fx.compile(model, (x,), options=Options.exact())
    tracked = laser_fx.compile(model, (x,), options=Options(rank=6, sites="all"))
    assert len(captures) == 1
    assert exact.program.record_names == ()
    assert [site.rank for site in tracked.sites] == [6, 6]
    laser_fx.compile(model, (x,), options=Options.exact(min_trip=3))
    assert len(captures) == 2, "what counts as a loop is a part of the key"


def test_ranks_are_measured_on_the_inputs_at_hand(captures: list[str]) -> None:
    model = Contractive().eval()
    options, inputs = Options(sites="all"), [(low_rank(ROWS, 24, 32, rank=rank),) for rank in (1, 24, 1)]
    ranks = [laser_fx.compile(model, x, options=options).program.sites[0].rank for x in inputs]
    assert len(captures) == 1
    assert ranks[0] == ranks[2]
    assert ranks[0] is not None
    assert ranks[1] is not None
    assert ranks[0] < ranks[1]


def test_a_batch_of_one_is_served_too(captures: list[str]) -> None:
    model, x = Contractive().eval(), low_rank(1, 24, 32)
    first, second = (laser_fx.compile(model, (x,), options=Options(sites="all")) for _ in range(2))
    assert len(captures) == 1
    assert [s.rank for s in first.sites] == [s.rank for s in second.sites]


@pytest.mark.parametrize(
    "inputs",
    [
        lambda x: (x[:2],),
        lambda x: (x.double(),),
        lambda x: (x, 1.0),
        lambda x: (x, 1),
        lambda x: (x, True),
    ],
    ids=["size", "dtype", "an argument", "its type", "or that"],
)
def test_other_inputs_are_captured_anew(inputs: Callable[[Tensor], tuple[Any, ...]], captures: list[str]) -> None:
    model, _, x = compiled_once()
    laser_fx.compile(model, (x, 2.0), options=Options.exact())
    model.to(inputs(x)[0].dtype)
    compiled = laser_fx.compile(model, inputs(x), options=Options.exact())
    assert len(captures) == 3
    with torch.no_grad():
        assert same(compiled(*inputs(x)), model(*inputs(x)))


def patch_forward(model: Looped) -> None:
    model.forward = types.MethodType(lambda self, x: self.a(self.a(self.a(x))), model)  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[Looped], Any]] = {
    "an attribute": lambda m: setattr(m, "trips", 5),
    "another one": lambda m: setattr(m, "gain", 0.5),
    "a submodule": lambda m: setattr(m, "a", nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())),
    "the training flag of a submodule": lambda m: m.dropout.train(),
    "the forward": patch_forward,
    "a method": lambda m: setattr(m, "step", lambda z, x: z + x * m.b(z)),
    "a hook": lambda m: m.a.register_forward_hook(lambda module, args, output: output * 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_never_runs_its_old_graph(change: str, captures: list[str]) -> None:
    model, compiled, x = compiled_once()
    with torch.no_grad():
        before = compiled(x)
        CHANGES[change](model)
        for run in (compiled, laser_fx.compile(model, options=Options.exact())):
            torch.manual_seed(1)
            expected = model(x)
            torch.manual_seed(1)
            output = run(x)
            assert same(output, expected)
            assert not same(output, before)
    assert len(captures) == 2


def test_tied_and_untied_weights_have_the_gradients_of_eager(captures: list[str]) -> None:
    class Two(Parts):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = torch.tanh(x @ self.a.weight + x @ self.b.weight)
            return x

    model, x = Two().train(), torch.randn(ROWS, WIDTH)
    compiled = laser_fx.compile(model, options=Options.exact())
    untied = model.b.weight
    for weight in (untied, model.a.weight, nn.Parameter(model.a.weight.detach().clone())):
        model.b.weight = weight
        assert same(backward(compiled, model, x), backward(model, model, x))
    assert len(captures) == 2, "the third pattern is the first again"


def test_going_back_finds_the_first_program_again(captures: list[str]) -> None:
    model, compiled, x = compiled_once()
    first = compiled.program
    with torch.no_grad():
        model.trips = 5
        compiled(x)
        assert compiled.loops.trips() == ((0, 5),)
        model.trips = 3
        compiled(x)
    assert compiled.program is first
    assert len(captures) == 2


def test_what_no_code_reads_may_change(captures: list[str]) -> None:
    model, compiled, x = compiled_once()
    with torch.no_grad():
        for count in range(3):
            model.unread = count
            compiled(x)
    assert len(captures) == 1


def test_a_step_of_the_optimizer_is_no_change(captures: list[str]) -> None:
    model = Looped().train()
    compiled, x = laser_fx.compile(model, options=Options.exact()), torch.randn(ROWS, WIDTH)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    for _ in range(3):
        backward(compiled, model, x)
        optimizer.step()
    assert len(captures) == 1


def test_a_size_that_is_returned_is_that_of_the_call() -> None:
    class Sized(Looped):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
            return super().forward(x), x.shape[0] * 2

    model = Sized().eval()
    compiled = laser_fx.compile(model, options=Options.exact())
    with torch.no_grad():
        for rows in (4, 6, 1):
            x = torch.randn(rows, WIDTH)
            assert same(compiled(x), model(x))


def test_writing_into_an_input_is_refused() -> None:
    class Writes(Looped):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x.add_(1.0))

    with torch.no_grad(), pytest.raises(CaptureError, match="writes into what it is called with"):
        laser_fx.compile(Writes().eval())(torch.randn(ROWS, WIDTH))


def test_the_cache_is_weak_on_models_and_keeps_no_history() -> None:
    model, x = Looped().train(), torch.randn(ROWS, WIDTH)
    history = (x.requires_grad_() * 2).exp()
    compiled = laser_fx.compile(model, (history,), options=Options.exact())
    compiled(history)
    assert all(tensor.grad_fn is None for tensor in compiled.program.example_inputs)
    gone = weakref.ref(model)
    del model, compiled
    gc.collect()
    assert gone() is None


def test_a_program_from_the_cache_is_checked_as_a_new_one_is() -> None:
    model, _, x = compiled_once()
    with pytest.raises(NonFiniteError, match="1 of 32 values are NaN"):
        laser_fx.compile(model, (x.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)),))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record for record in caplog.records if record.name == "laser_fx" and record.levelno >= logging.INFO]
    return [record.getMessage() for record in told if record.event != "compiled"]  # type: ignore[attr-defined]


def test_recompiling_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    model, compiled, x = compiled_once()
    with torch.no_grad(), caplog.at_level(logging.INFO, "laser_fx"):
        compiled(x)
        assert messages(caplog) == []
        compiled(torch.randn(ROWS, 3, WIDTH))
        compiled(torch.randn(ROWS, 5, WIDTH))
        compiled(torch.randn(ROWS, 7, WIDTH))
        model.trips = 4
        compiled(torch.randn(ROWS, 7, WIDTH))
        compiled(torch.randn(ROWS, 7, WIDTH), scale=0.5)
        compiled(torch.randn(1, 7, WIDTH), scale=0.5)
        model.double()
        compiled(torch.randn(1, 7, WIDTH, dtype=torch.float64), scale=0.5)
    assert messages(caplog) == [
        "recompiling: in_x ndim was 2, is 3",
        "recompiling: in_x size 1 was 3, is 5",
        "recompiling: Looped.trips was 3, is 4",
        "recompiling: the arguments are another tree, or have tensors in other places",
        "recompiling: in_x size 0 was free from 2 on, is 1",
        "recompiling: rows dtype was float32, is float64; in_x dtype was float32, is float64",
    ]


def test_modes_and_plain_arguments_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = Looped().eval()
    compiled, x = laser_fx.compile(model, options=Options.exact()), torch.randn(ROWS, WIDTH)
    with caplog.at_level(logging.INFO, "laser_fx"):
        with torch.no_grad():
            compiled(x, 0.5)
            compiled(x, 0.25)
            compiled(x, 0.125)
        compiled(x, 0.125)
    assert messages(caplog) == [
        "recompiling: argument scale was 0.5, is 0.25",
        "recompiling: grad_enabled was False, is True",
    ]


def test_a_value_that_keeps_changing_is_named_and_the_model_left_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, captures: list[str]
) -> None:
    monkeypatch.setattr(programs, "LIMIT", 4)
    model, compiled, x = compiled_once()
    with torch.no_grad(), caplog.at_level(logging.WARNING, "laser_fx"):
        for scale in (0.5, 0.6, 0.7, 0.8, 0.9):
            assert same(compiled(x, scale), model(x, scale))
        assert compiled.program.capture.call.constants == ((1, 0.7),), "the last two ran as they are"
        assert same(compiled(x, 0.5), model(x, 0.5))
        assert compiled.program.capture.call.constants == ((1, 0.5),), "what was compiled is still used"
    assert len(captures) == 4
    assert messages(caplog) == [
        "Looped has 4 programs, and calls that need another one run as they are from here on: "
        "argument scale changed 2 times"
    ]
