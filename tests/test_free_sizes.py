"""Sizes besides the batch that stay open: in the program, in a file, and not where the model needs them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import laser_fx
from laser_fx import Options
from laser_fx.errors import InputError, OptionError
from laser_fx.export import OnnxModel, verify_exported

LENGTH = {"tokens": {1: "length"}}


class _Looped(nn.Module):
    """Attention without positions, four times."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        z = torch.zeros_like(tokens)
        for _ in range(4):
            batch, length, width = z.shape
            q, k, v = self.qkv(z + tokens).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
            z = torch.tanh(z + self.out(mixed))
        return z


class _Positions(nn.Module):
    """A learned vector for each of nine positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.positions = nn.Linear(16, 16), nn.Parameter(torch.randn(9, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        for _ in range(3):
            tokens = torch.tanh(self.layer(tokens) + self.positions)
        return tokens


def _compiled(model: nn.Module, **options: Any) -> laser_fx.CompiledModel:
    torch.manual_seed(0)
    return laser_fx.compile(model.eval(), (torch.randn(3, 9, 16),), options=Options.exact(**options))


def test_one_program_runs_at_every_length_as_eager_does() -> None:
    compiled = _compiled(_Looped(), free_sizes=LENGTH)
    (loop,) = compiled.loops.loops
    assert loop.trip_count == 4
    with torch.no_grad():
        for shape in ((3, 9, 16), (2, 21, 16), (5, 4, 16)):
            x = torch.randn(shape)
            assert torch.equal(compiled(x), compiled._model(x))
    assert len(compiled._programs) == 1


@pytest.mark.parametrize("form", ["rolled", "functions", "step"])
def test_a_file_takes_every_length_under_the_name_of_the_options(tmp_path: Path, form: Any) -> None:
    compiled = _compiled(_Looped(), free_sizes=LENGTH)
    model = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", form=form).path)
    assert list(next(value.shape for value in model._session.get_inputs())) == ["batch", "length", 16]
    assert {tuple(value.shape) for value in model._session.get_outputs()} == {("batch", "length", 16)}
    x = torch.randn(2, 21, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x)["output"], compiled._model(x), atol=1e-5, rtol=1e-5)


class _Chosen(nn.Module):
    """What it computes depends on the length, and not all lengths are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        x = tokens.reshape(batch, length // 3, 3, width).sum(2)
        if length > 6:
            x = 2 * x
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return x


@pytest.mark.parametrize("form", ["rolled", "step"])
def test_a_file_refuses_lengths_that_were_not_traced(tmp_path: Path, form: Any) -> None:
    compiled = _compiled(_Chosen(), free_sizes=LENGTH)
    model = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", form=form).path)
    assert "length > 6" in model.metadata.conditions
    x = torch.randn(2, 21, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x)["output"], compiled._model(x), atol=1e-5, rtol=1e-5)
    for length in (6, 10):
        with pytest.raises(InputError, match=rf"holds only where .*length = {length}"):
            model(x[:, :length])
    assert any("9 in every" in run for run in verify_exported(model.path).runs)


class _Joined(nn.Module):
    """Two inputs whose lengths have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        for _ in range(3):
            tokens = torch.tanh(self.layer(tokens) + context.mean(1, keepdim=True))
        return tokens


@pytest.mark.parametrize("names", [("batch", "m"), ("n", "batch"), ("n", "n")])
def test_sizes_that_differ_do_not_share_a_name_in_a_file(tmp_path: Path, names: tuple[str, str]) -> None:
    sizes = {"tokens": {1: names[0]}, "context": {1: names[1]}}
    inputs = (torch.randn(3, 9, 16), torch.randn(3, 7, 16))
    compiled = laser_fx.compile(_Joined().eval(), inputs, options=Options.exact(free_sizes=sizes))
    with pytest.raises(OptionError, match="two sizes that differ are called"):
        compiled.to_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_model_needs_stays_and_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "laser_fx"):
        compiled = _compiled(_Positions(), free_sizes=LENGTH)
    assert "needs the size 'length'" in caplog.text
    assert compiled.program.capture.fixed_sizes(compiled.options.open_sizes) == ["length"]


def test_without_the_option_another_length_is_another_program() -> None:
    compiled = _compiled(_Looped())
    with torch.no_grad():
        compiled(torch.randn(3, 12, 16))
    assert len(compiled._programs) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": 1},
        {"tokens": {0: "batch"}},
        {"tokens": {1: "two words"}},
        {"tokens": {"1": "n"}},
        "tokens",
        [("a", 1)],
        3,
    ],
)
def test_what_is_no_size_is_refused(wrong: Any) -> None:
    with pytest.raises(OptionError, match="free_sizes is"):
        Options(free_sizes=wrong)


@pytest.mark.parametrize("wrong", [{"token": {1: "length"}}, {"tokens": {3: "length"}}])
def test_a_dimension_that_no_input_has_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="there is no dimension"):
        _compiled(_Looped(), free_sizes=wrong)


def test_the_forms_of_the_option_are_one() -> None:
    kept = Options(free_sizes=(("tokens", 1, "length"),))
    assert Options(free_sizes=LENGTH) == kept == Options(free_sizes=[["tokens", 1, "length"]])  # type: ignore[arg-type]


def test_what_is_free_cannot_change_afterwards() -> None:
    compiled = _compiled(_Looped())
    with pytest.raises(OptionError, match="free_sizes"):
        compiled.with_options(Options.exact(free_sizes=LENGTH))
