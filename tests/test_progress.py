from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import laser_fx
from laser_fx.options import Options
from laser_fx.progress import Stage, at, each, listening, stage
from tests.small import WIDTH, looped


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def began(self, stage: Stage) -> None:
        self.told.append(f"+{stage.name}")

    def advanced(self, stage: Stage) -> None:
        self.told.append(f"{stage.done}/{stage.total}")

    def ended(self, stage: Stage) -> None:
        self.told.append(f"-{stage.name}")


def test_a_stage_begins_and_ends() -> None:
    heard = Heard()
    with listening(heard), stage("outer"):
        assert list(each("inner", [7, 8])) == [7, 8]
    assert heard.told == ["+outer", "+inner", "1/2", "2/2", "-inner", "-outer"]


def test_a_stage_that_fails_ends() -> None:
    heard = Heard()
    with pytest.raises(ZeroDivisionError), listening(heard), stage("dividing"):
        raise ZeroDivisionError
    assert heard.told == ["+dividing", "-dividing"]


def test_nobody_is_told_outside() -> None:
    heard = Heard()
    with listening(heard):
        pass
    with stage("late"):
        pass
    with listening(heard), listening(None), stage("silent") as silent:
        silent.advance()
    with listening(heard):
        thread = threading.Thread(target=lambda: list(each("elsewhere", [1])))
        thread.start()
        thread.join()
    assert heard.told == []


def test_a_function_that_is_a_stage_is_one_at_every_call() -> None:
    @stage("working")
    def work(number: int) -> int:
        return number + 1

    heard = Heard()
    with listening(heard):
        assert work(1) + work(2) == 5
    assert heard.told == ["+working", "-working"] * 2


def test_how_far_the_innermost_stage_is_may_be_found_out_on_the_way() -> None:
    heard = Heard()
    with listening(heard), stage("outer") as outer:
        with stage("inner"):
            at(1, 3)
        at(2, 4)
    at(9, 9)
    assert heard.told == ["+outer", "+inner", "1/3", "-inner", "2/4", "-outer"]
    assert (outer.done, outer.total) == (2, 4)


def test_inspecting_and_exporting_have_their_stages(tmp_path: Path) -> None:
    heard = Heard()
    model, x = looped(), torch.ones(4, WIDTH)
    with listening(heard):
        laser_fx.inspect(model, (x,))
        laser_fx.compile(model, (x,), options=Options.exact()).to_onnx(tmp_path / "m.onnx")
    began = {told[1:] for told in heard.told if told.startswith("+")}
    stages = ("tracing the model", "finding loops", "measuring activations", "measuring a training step")
    assert began >= {*stages, "translating to ONNX", "verifying in ONNX Runtime"}
    assert sum(told.startswith("-") for told in heard.told) == sum(told.startswith("+") for told in heard.told)
