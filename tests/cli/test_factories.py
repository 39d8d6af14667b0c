from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from laser_fx.zoo.examples import EXAMPLES
from tests.cli.calls import call


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("factories", "package.module:function"),
        (":make", "package.module:function"),
        ("factories:", "package.module:function"),
        ("fact ories:make", "package.module:function"),
        ("..:make", "package.module:function"),
        ("models/trm.py:make", "write models.trm:make"),
        ("nowhere:make", "there is no module nowhere"),
        ("nowhere.at_all:make", "there is no package nowhere"),
        ("torch.nn.nowhere:make", "the package torch.nn has no module nowhere"),
        ("factories.nowhere:make", "factories is a module, not a package"),
        ("factories:absent", "factories has no function absent"),
        ("factories:mak", "did you mean make?"),
        ("factories:Model.absent", "the class Model has no function absent"),
        ("factories:make.absent", "the function make has no function absent"),
        ("lazily:Model", "taking Model of it failed: ModuleNotFoundError: No module named 'not_there'"),
        ("factories:number", "number is int, and cannot be called"),
        ("factories:strange", "the factory returned str"),
        ("factories:alone", "Linear alone, without example inputs"),
        ("factories:needy", "the factory needs the argument 'width'"),
        ("factories:quits", "the factory failed: SystemExit: no licence"),
        ("zoo.nobody", "choose among attention"),
    ],
)
def test_a_factory_that_does_not_fit_is_explained(name: str, said: str, inspected: list[Any]) -> None:
    done = call("inspect", name)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not inspected


@pytest.mark.parametrize(
    ("name", "sentence", "line"),
    [
        ("broken", "the factory failed: RuntimeError: my own defect", "factories.py:10 in broken"),
        ("deeper", "the factory failed: RuntimeError: inconsistent tensor size", "factories.py:11 in deeper"),
    ],
)
def test_an_exception_of_the_factory_has_its_line(name: str, sentence: str, line: str, inspected: list[Any]) -> None:
    done = call("inspect", f"factories:{name}")
    assert done.exit_code == 2
    assert sentence in done.stderr.splitlines()[0]
    assert line in done.stderr.splitlines()[1]


@pytest.mark.parametrize(
    ("code", "sentence", "line"),
    [
        ("import torch\nimport not_installed", "ModuleNotFoundError: No module named 'not_installed'", "unsound.py:2"),
        ("import torch\nimport torch.nowhere", "No module named 'torch.nowhere'", "unsound.py:2"),
        ("def make(:\n", "SyntaxError: invalid syntax", "unsound.py:1"),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero", "unsound.py:3 in <module>"),
        ("from torch import nobody", "ImportError: cannot import name 'nobody'", "unsound.py:1"),
        ("raise SystemExit(4)", "SystemExit: 4", "unsound.py:1"),
    ],
)
def test_a_module_that_fails_says_with_what_and_where(code: str, sentence: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "unsound.py").write_text(code, encoding="utf-8")
    sys.modules.pop("unsound", None)
    done = call("inspect", "unsound:make")
    assert done.exit_code == 2
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("error: importing unsound failed: ")
    assert sentence in first
    assert line in second
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["Model", "model"])
def test_a_class_and_an_instance_will_do(name: str, inspected: list[Any]) -> None:
    assert call("inspect", f"factories:{name}", "--inputs", "float32[3,2]").exit_code == 0
    assert isinstance(inspected[0][0], nn.Linear)


def test_a_method_of_a_class_will_do(inspected: list[Any]) -> None:
    assert call("inspect", "factories:Model.make").exit_code == 0
    assert torch.equal(inspected[0][1][0], torch.ones(3, 2))


def test_what_a_factory_prints_is_not_among_the_results(inspected: list[Any]) -> None:
    done = call("inspect", "factories:loud", "--json")
    assert done.exit_code == 0
    assert done.stdout.startswith("{")
    assert done.stderr == "made\n"


def test_batch_and_seed_go_to_a_factory_that_takes_them(inspected: list[Any]) -> None:
    assert call("inspect", "factories:seeded", "--batch", "7", "--seed", "5").exit_code == 0
    assert torch.equal(inspected[0][1][0], torch.full((7, 2), 5.0))


def test_a_batch_that_the_factory_does_not_take_is_refused(inspected: list[Any]) -> None:
    done = call("inspect", "factories:make", "--batch", "7")
    assert done.exit_code == 2
    assert "takes no batch" in done.stderr
    assert not inspected


def test_a_seed_decides_the_weights(inspected: list[Any]) -> None:
    for seed in (1, 1, 2):
        call("inspect", "factories:make", "--seed", seed)
    first, same, other = (model.weight for model, *_ in inspected)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_of_the_zoo_runs(name: str) -> None:
    model, inputs = EXAMPLES[name](batch=2)
    assert not model.training
    assert inputs[0].shape[0] == 2
    with torch.no_grad():
        model(*inputs)


def test_an_example_of_the_zoo_is_a_factory(inspected: list[Any]) -> None:
    assert call("inspect", "zoo.gru", "--batch", "3").exit_code == 0
    assert type(inspected[0][0]).__name__ == "UnrolledGRU"
    assert inspected[0][1][0].shape == (3, 5, 6)
