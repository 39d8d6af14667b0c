from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from laser_fx.cli.example import GivenInput, ready
from laser_fx.cli.inputs import given_inputs, parse_spec
from laser_fx.errors import InputError
from tests.cli.calls import call


class Takes(nn.Module):
    def forward(self, x: Tensor, state: Any, scale: float = 1.0, *, mask: Tensor | None = None) -> Tensor:
        return x


class Gathers(nn.Module):
    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        return tensors[0]


def named(**values: int) -> list[GivenInput]:
    return [GivenInput(None if name.startswith("_") else name, torch.tensor(v)) for name, v in values.items()]


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("float32[4,81,256]", torch.float32, (4, 81, 256)),
        ("bfloat16[ 2 , 3 ]", torch.bfloat16, (2, 3)),
        ("float64[]", torch.float64, ()),
        ("bool[3]", torch.bool, (3,)),
        ("uint8[5]:0..256", torch.uint8, (5,)),
        ("int64[B,36]:-2..2", torch.int64, (4, 36)),
        ("float32[0,2]", torch.float32, (0, 2)),
    ],
)
def test_a_text_makes_a_tensor(text: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    (given,) = given_inputs([text])
    assert (given.name, given.value.dtype, given.value.shape) == (None, dtype, shape)


@pytest.mark.parametrize(("text", "low", "high"), [("int64[500]:3..7", 3, 6), ("float32[500]:-1..0.5", -1, 0.5)])
def test_values_lie_in_their_range(text: str, low: float, high: float) -> None:
    (given,) = given_inputs([text])
    assert low <= given.value.min() < low + 0.5
    assert high - 0.5 < given.value.max() <= high


def test_the_seed_decides_the_values() -> None:
    first, same, other = (given_inputs(["float32[9]"], seed=seed)[0].value for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_two_inputs_are_not_the_same() -> None:
    first, second = given_inputs(["float32[9]", "float32[9]"])
    assert not torch.equal(first.value, second.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x.npz", "unknown kind"),
        ("x.pt", "unknown kind"),
        ("float32", "unknown kind"),
        ("float32(4,3)", "unknown kind"),
        ("float32[4]:", "unknown kind"),
        ("1x=float32[4]", "unknown kind"),
        ("absent.safetensors", "no such file"),
        ("fancy[4]", "fancy is no dtype"),
        ("float32[four]", "'four' is no size"),
        ("float32[-4]", "'-4' is no size"),
        ("float32[4,]", "'' is no size"),
        ("float32[²]", "'²' is no size"),
        ("int64[4]", "whole numbers need a range"),
        ("int64[4]:0..", "0.. is no range"),
        ("int64[4]:0..1.5", "no range of torch.int64"),
        ("int64[4]:0..1e300", "no range of torch.int64"),
        ("uint8[4]:0..257", "no range of torch.uint8"),
        ("int64[4]:5..5", "empty"),
        ("int64[4]:nan..5", "no range"),
        ("float32[4]:nan..5", "empty or not finite"),
        ("float32[4]:0..inf", "empty or not finite"),
        ("bool[4]:0..1", "truth values have no range"),
        ("float32[99999999999999999999]", "more than 2³²"),
        ("float32[4000000000,4000000000]", "more than 2³²"),
    ],
)
def test_a_text_that_is_none_is_explained(text: str, said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        given_inputs([text])
    assert said in str(caught.value)
    assert caught.value.fix


def test_a_tensor_without_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(torch, "randn", full)
    with pytest.raises(InputError, match="no memory for the tensor"):
        given_inputs(["float32[4]"])


def test_the_batch_is_where_a_b_stands() -> None:
    first, second = given_inputs(["float32[B,3]", "float32[3]"], batch=7)
    assert (first.value.shape, second.value.shape) == ((7, 3), (3,))
    with pytest.raises(InputError, match="used nowhere"):
        given_inputs(["float32[4]"], batch=7)


def test_a_name_may_stand_before_it() -> None:
    spec = parse_spec("batch.tokens=int64[2]:0..10")
    assert spec is not None
    assert spec.name == "batch.tokens"


def test_a_file_gives_its_tensors_by_name(tmp_path: Path) -> None:
    save_file({"state": torch.ones(2), "x": torch.zeros(3)}, tmp_path / "in.safetensors")
    example = ready(Takes(), given_inputs([str(tmp_path / "in.safetensors")]))
    assert [tuple(value.shape) for value in example.args] == [(3,), (2,)]


def test_a_file_that_is_damaged_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 30)
    save_file({}, tmp_path / "empty.safetensors")
    for name, said in (("bad", "no safetensors file"), ("empty", "holds no tensor")):
        with pytest.raises(InputError, match=said):
            given_inputs([str(tmp_path / f"{name}.safetensors")])


def test_tensors_are_put_in_the_order_of_forward() -> None:
    example = ready(Takes(), named(mask=4, state=2, _=1))
    assert example.args == (1, 2)
    assert example.kwargs == {"mask": 4}


def test_what_follows_an_argument_that_is_left_out_goes_by_name() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
            return x

    example = ready(Optional(), named(x=1, b=3))
    assert (example.args, example.kwargs) == ((1,), {"b": 3})


def test_a_name_with_a_dot_is_an_entry_of_a_dictionary() -> None:
    given = [GivenInput("state.z.low", torch.tensor(1)), GivenInput("state.h", torch.tensor(2)), *named(x=3)]
    assert ready(Takes(), given).args == (3, {"z": {"low": 1}, "h": 2})


def test_forward_may_gather_its_arguments() -> None:
    example = ready(Gathers(), named(_a=1, other=3, _b=2))
    assert (example.args, example.kwargs) == ((1, 2), {"other": 3})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (named(x=1, stat=2), "no argument 'stat'"),
        (named(x=1), "no input was given for state"),
        (named(_1=1, _2=2, _3=3, _4=4), "4 inputs came in order, for 3 arguments"),
        (named(x=1) * 2, "x was given twice"),
        ([*named(x=1, state=2), GivenInput("state.z", torch.tensor(1))], "a tensor and a dictionary"),
    ],
)
def test_inputs_that_do_not_fit_are_explained(given: list[GivenInput], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        ready(Takes(), given)
    assert caught.value.where == "Takes.forward(x, state, scale=1.0, *, mask=None)"


def test_the_command_takes_inputs_for_a_model_alone(inspected: list[Any]) -> None:
    assert call("inspect", "factories:alone", "--inputs", "float32[B,2]", "--batch", "9").exit_code == 0
    assert inspected[0][1][0].shape == (9, 2)


def test_inputs_that_are_given_stand_for_those_of_the_factory(inspected: list[Any]) -> None:
    assert call("inspect", "factories:make", "--inputs", "float32[5,2]").exit_code == 0
    assert inspected[0][1][0].shape == (5, 2)


def test_inputs_that_are_none_have_an_exit_code(inspected: list[Any]) -> None:
    done = call("inspect", "factories:alone", "--inputs", "x.npy")
    assert done.exit_code == 2
    assert "--inputs x.npy" in done.stderr
    assert not inspected
