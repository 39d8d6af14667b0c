"""Files that leave their loop early: each answer is the program's own at the step where its head says done."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from laser_fx.errors import ExportError, InputError, OptionError, VerificationError
from laser_fx.export import OnnxFile, OnnxModel, serve_config, to_onnx, verify_exported, write_reference
from tests.export.conftest import MAKERS, HandMade
from tests.export.files import operators
from tests.export.halting_programs import halting, inputs_for

Written = Callable[..., OnnxFile]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # float32 sums in another order


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A file of `halting`, verified, written once for all tests."""

    @functools.cache
    def write(per: str, kind: str = "logits", extra: str = "last") -> OnnxFile:
        path = tmp_path_factory.mktemp("halting") / "m.onnx"
        return to_onnx(halting(kind=kind, extra=extra), path, halt="halt_logits", halt_per=per)

    return write


def after(steps: int, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """What the program answers when it makes so many steps."""
    program = halting(trips=steps)
    return dict(zip(program.output_names, program.run(*inputs), strict=True))


@pytest.mark.parametrize("kind", ["logits", "bool", "half", "step"])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_a_file_is_verified_where_its_rows_halt_at_different_steps(written: Written, per: str, kind: str) -> None:
    checked = written(per, kind).verification
    assert checked.excused == ()
    assert checked.max_error < 1e-5
    assert any("halt_above = " in run for run in checked.runs)
    assert {"4 rows, halting at once", "4 rows, not halting"} <= set(checked.runs)


@pytest.mark.parametrize("steps", [(1,), (3,), (9,), (2, 4, 3), (1, 1, 1), (1, 6, 9), (9, 9, 9)])
def test_a_batch_answers_as_of_the_step_at_which_all_are_done(written: Written, steps: tuple[int, ...]) -> None:
    model, inputs = OnnxModel(written("batch").path), inputs_for(*steps)
    answers = model(*inputs)
    assert int(model.steps_taken) == min(6, max(steps))
    for name, expected in after(min(6, max(steps)), inputs).items():
        torch.testing.assert_close(answers[name], expected, **CLOSE)


@pytest.mark.parametrize("steps", [(1,), (3,), (9,), (2, 4, 3), (1, 1, 1), (1, 6, 9), (9, 9, 9)])
def test_a_row_answers_as_of_its_own_step(written: Written, steps: tuple[int, ...]) -> None:
    model, inputs = OnnxModel(written("example").path), inputs_for(*steps)
    answers = model(*inputs)
    assert model.steps_taken.tolist() == [min(6, count) for count in steps]
    for row, count in enumerate(steps):
        for name, expected in after(min(6, count), inputs).items():
            torch.testing.assert_close(answers[name][row], expected[row], **CLOSE)


def test_what_else_is_in_the_batch_changes_no_row(written: Written) -> None:
    model, (x, speed) = OnnxModel(written("example").path), inputs_for(2, 5, 3)
    together, alone = model(x, speed), model(x[:1], speed[:1])
    torch.testing.assert_close(together["y"][:1], alone["y"], **CLOSE)


@pytest.mark.parametrize("depth", [1, 3, 9])
def test_depth_stays_the_most(written: Written, depth: int) -> None:
    for per in ("batch", "example"):
        model, inputs = OnnxModel(written(per).path), inputs_for(2, 5, 3)
        answers = model(*inputs, depth=depth)
        wanted = [min(depth, count) for count in (2, 5, 3)]
        assert model.steps_taken.tolist() == (wanted if per == "example" else max(wanted))
        torch.testing.assert_close(answers["y"][1], after(min(depth, 5), inputs)["y"][1], **CLOSE)


def test_a_call_may_say_when_an_example_is_done(written: Written) -> None:
    model, inputs = OnnxModel(written("example").path), inputs_for(2, 5, 3)
    at = {halt: (model(*inputs, halt=halt), model.steps_taken.tolist())[1] for halt in (False, 0.34, -9, -math.inf)}
    assert at == {False: [6, 6, 6], 0.34: [3, 6, 4], -9: [1, 1, 1]} | {-math.inf: [1, 1, 1]}
    model(*inputs, halt=True)
    assert model.steps_taken.tolist() == [2, 5, 3]
    assert model(*inputs, halt=False).keys() == {"y", "halt_logits", "extra", "first"}


@pytest.mark.parametrize("halt", [math.nan, "never", np.float32(1)])
def test_a_call_with_no_number_is_refused(written: Written, halt: Any) -> None:
    with pytest.raises(OptionError, match="halt is"):
        OnnxModel(written("batch").path)(*inputs_for(2), halt=halt)


def test_a_file_that_does_not_halt_has_no_steps_and_takes_no_logit(tmp_path: Path) -> None:
    program = halting()
    model = OnnxModel(to_onnx(program, tmp_path / "m.onnx", verify=False).path)
    model(*program.example_inputs)
    assert model.steps_taken is None
    with pytest.raises(InputError, match="does not halt"):
        model(*program.example_inputs, halt=False)


def test_warm_up_leaves_the_steps_of_the_last_call(written: Written) -> None:
    model = OnnxModel(written("batch").path)
    model(*inputs_for(2, 3))
    model.warm_up(sizes={"batch": 2}, halt=-math.inf)
    assert int(model.steps_taken) == 3


def test_the_threshold_of_the_file_is_its_default(tmp_path: Path) -> None:
    file = to_onnx(halting(), tmp_path / "m.onnx", halt="halt_logits", halt_per="example", halt_above=0.34)
    model = OnnxModel(file.path)
    model(*inputs_for(2, 5, 3))
    assert model.steps_taken.tolist() == [3, 6, 4]
    assert model.metadata.halt.default == float(np.float32(0.34))


def test_all_steps_of_a_batch_are_those_that_ran(written: Written) -> None:
    model = OnnxModel(written("batch", extra="all").path)
    assert model(*inputs_for(2, 4))["extra"].shape == (4, 2, 3)
    assert model(*inputs_for(2, 1))["extra"].shape == (2, 2, 3)


@pytest.mark.parametrize(("extra", "least"), [("third", 3), ("last but one", 2)])
def test_a_step_that_is_read_is_run(written: Written, extra: str, least: int) -> None:
    model, inputs = OnnxModel(written("batch", extra=extra).path), inputs_for(1, 1)
    answers = model(*inputs)
    assert int(model.steps_taken) == least == model.metadata.halt.least
    program = halting(trips=least, extra=extra)
    torch.testing.assert_close(answers["extra"], program.run(*inputs)[2], **CLOSE)


def test_a_row_is_not_done_before_a_step_that_is_read(written: Written) -> None:
    model, inputs = OnnxModel(written("example", extra="third").path), inputs_for(1, 5)
    answers = model(*inputs)
    assert model.steps_taken.tolist() == [3, 5]
    torch.testing.assert_close(answers["extra"], halting(trips=5, extra="third").run(*inputs)[2], **CLOSE)


def test_bases_may_be_tracked_where_a_batch_halts_as_one(tmp_path: Path) -> None:
    program = with_head(MAKERS["tracked"]())
    file = to_onnx(program, tmp_path / "m.onnx", halt="q", halt_above=99.0)
    assert file.verification.max_error < 1e-3
    model = OnnxModel(file.path)
    model(*program.example_inputs, halt=-math.inf)
    assert model.stats["loop_0:up"].shape == (1, 5)
    model(*program.example_inputs)
    assert model.stats["loop_0:up"].shape == (4, 5)


def with_head(program: HandMade) -> HandMade:
    """A program with its first output's first element of each row as halting logits."""
    graph = program.graph_module.graph
    for level in (program.graph_module, program.captured):
        graph, out = level.graph, level.graph.output_node()
        y = out.args[0][0]
        with graph.inserting_before(out):
            head = graph.call_function(torch.Tensor.mean, (y, (-1, -2)))
        with y.meta["val"].fake_mode:
            head.meta["val"] = y.meta["val"].mean((-1, -2))
        out.args = ((y, head, *out.args[0][1:]),)
        level.recompile()
    return program.but(output_names=("y", "q"))


REFUSED: dict[str, tuple[Callable[[], HandMade], dict[str, Any], str]] = {
    "an output that is not there": (halting, {"halt": "q"}, "no output 'q'"),
    "an output of another shape": (halting, {"halt": "y"}, r"not \(batch,\)"),
    "another form": (halting, {"form": "unrolled"}, "reads no condition"),
    "an unknown way": (halting, {"halt_per": "row"}, "halt_per is 'row'"),
    "a threshold that is none": (halting, {"halt_above": math.nan}, "halt_above is nan"),
    "an infinite threshold": (halting, {"halt_above": math.inf}, "halt_above is inf"),
    "a threshold of nothing": (halting, {"halt": None, "halt_above": 1.0}, "nothing halts"),
    "two loops": (lambda: MAKERS["two_loops"]().but(), {"halt": "y"}, "2 outermost loops"),
    "tracked bases, by rows": (
        lambda: with_head(MAKERS["tracked"]()),
        {"halt": "q", "halt_per": "example"},
        "bases are tracked over the batch",
    ),
    "a number for the batch": (lambda: halting(counts=True), {"halt_per": "example"}, "carries a value for the whole"),
    "a fixed batch": (lambda: halting(dynamic=False), {"halt_per": "example"}, "fixed size 3"),
    "all steps": (lambda: halting(extra="all"), {"halt_per": "example"}, "more than the last step"),
    "a step from the end": (
        lambda: halting(extra="last but one"),
        {"halt_per": "example"},
        "more than the last step",
    ),
    "a total": (lambda: halting(extra="total"), {"halt_per": "example"}, "made from all examples"),
    "a collected total": (lambda: halting(extra="collected total"), {"halt_per": "example"}, "not the batch in front"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_left_early_is_refused(case: str, tmp_path: Path) -> None:
    make, options, said = REFUSED[case]
    with pytest.raises((OptionError, ExportError), match=said) as caught:
        to_onnx(make(), tmp_path / "m.onnx", verify=False, **{"halt": "halt_logits", **options})
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_number_for_the_whole_batch_is_no_matter_where_all_halt_at_once(tmp_path: Path) -> None:
    assert to_onnx(halting(counts=True), tmp_path / "m.onnx", halt="halt_logits").verification.max_error < 1e-5


def test_rows_that_read_each_other_are_found_out(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="'y' differs"):
        to_onnx(halting(couples=True), tmp_path / "m.onnx", halt="halt_logits", halt_per="example")
    assert list(tmp_path.iterdir()) == []
    to_onnx(halting(couples=True), tmp_path / "m.onnx", halt="halt_logits")


def test_the_same_program_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    for per in ("batch", "example"):
        again = to_onnx(halting(), tmp_path / per, verify=False, halt="halt_logits", halt_per=per)
        assert again.path.read_bytes() == written(per).path.read_bytes()


def test_a_batch_needs_no_mask_and_rows_need_one(written: Written) -> None:
    assert "Where" not in operators(written("batch").path)
    assert operators(written("example").path)["Where"] == 2


@pytest.mark.parametrize("per", ["batch", "example"])
def test_a_written_file_is_checked_with_its_reference(written: Written, per: str, tmp_path: Path) -> None:
    file = written(per)
    kept = write_reference(halting(), file.path, tmp_path / "r.safetensors")
    checked = verify_exported(file.path, kept)
    assert {"halting at once", "not halting", "the reference batch"} <= set(checked.runs)
    assert checked.excused == ()
    other = write_reference(halting(steps=(3, 2, 2)), file.path, tmp_path / "other.safetensors")
    arrays = other.read_bytes()
    assert arrays != kept.read_bytes()
    verify_exported(file.path, other)


def test_a_reference_that_halted_elsewhere_is_told(written: Written, tmp_path: Path) -> None:
    program = halting()
    late = to_onnx(program, tmp_path / "late.onnx", halt="halt_logits", halt_above=0.3, verify=False)
    kept = write_reference(program, late.path, tmp_path / "r.safetensors")
    with pytest.raises(VerificationError, match=r"halts after 4 steps, not 5") as caught:
        verify_exported(written("batch").path, kept)
    assert "the reference" in str(caught.value)


@pytest.mark.parametrize("per", ["batch", "example"])
def test_a_file_is_served_with_its_own_threshold(written: Written, per: str, tmp_path: Path) -> None:
    served = serve_config(written(per).path, tmp_path / "models", name="m", max_batch=8)
    notes = "\n".join(served.notes)
    assert "depth, halt_above: no inputs in Triton" in notes
    assert "steps_taken: not served" in notes
    assert ("slowest request" in notes) == (per == "batch")
    assert "steps_taken" not in (served.path / "config.pbtxt").read_text()
