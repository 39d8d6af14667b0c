"""The form `step`: a branch-free step and a host loop answer as the rolled file does, at any depth and batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import laser_fx
from laser_fx.calibration import Calibration, SiteBasis
from laser_fx.errors import ExportError, InputError, OptionError
from laser_fx.export import OnnxModel, serve_config, to_onnx, verify_exported, write_reference
from laser_fx.zoo.trm import TRM, Solve, TRMConfig
from tests.export.conftest import MAKERS, random
from tests.export.files import operators
from tests.small import Contractive, low_rank

NAMES = ("one_loop", "nested", "per_step")
EXACT = laser_fx.Options.exact()


class Recurrent(nn.Module):
    """An RNN in `laser_fx.loop`: rows of a sequence go in one by one, all outputs come back stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def body(_: Any, carry: Any, row: Tensor) -> Any:
            state = torch.tanh(self.cell(carry) + row)
            return state, state.sum(-1)

        return laser_fx.loop(body, torch.zeros_like(x[0]), 6, per_step=(x,), collect=True)


def recurrent() -> Any:
    torch.manual_seed(0)
    return _program(Recurrent().eval(), random(6, 3, 8))


def solve() -> Any:
    torch.manual_seed(0)
    return _program(Solve(TRM(_config()).eval(), 3, halting=True).eval(), torch.randint(0, 7, (3, 16)))


def _program(model: nn.Module, *inputs: Any) -> Any:
    return laser_fx.compile(model, example_inputs=inputs, options=EXACT).program


def _config() -> TRMConfig:
    return TRMConfig(seq_len=16, vocab_size=7, H_cycles=2, L_cycles=2, hidden_size=32, num_heads=2)


COMPILED = {"recurrent": recurrent, "solve": solve}
Files = Callable[[str], tuple[Any, Path, Path]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A program by name, its file of the form step and its rolled one, written once."""

    @functools.cache
    def written(name: str) -> tuple[Any, Path, Path]:
        program = (MAKERS | COMPILED)[name]()
        folder = tmp_path_factory.mktemp(name)
        to_onnx(program, folder / "step.onnx", form="step")
        to_onnx(program, folder / "rolled.onnx", verify=False)
        return program, folder / "step.onnx", folder / "rolled.onnx"

    return written


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(torch.as_tensor(ours[name]), torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, *COMPILED])
def test_it_answers_as_the_rolled_file(files: Files, name: str) -> None:
    program, step, rolled = files(name)
    ours, theirs = OnnxModel(step), OnnxModel(rolled)
    assert ours.metadata.form == "step"
    assert ours.input_names == theirs.input_names
    assert_same(ours(*program.example_inputs), theirs(*program.example_inputs))
    assert ours.steps_taken == theirs.metadata.loops[0]["trips"]
    arrays = [value.numpy() for value in program.example_inputs]
    assert all(isinstance(answer, np.ndarray) for answer in ours(*arrays).values())
    assert_same(ours(*arrays), theirs(*arrays))


@pytest.mark.parametrize("name", [*NAMES, *COMPILED])
def test_a_step_has_no_branch(files: Files, name: str) -> None:
    _, step, _ = files(name)
    model = onnx.load(step)
    inside = {node.op_type for function in model.functions for node in function.node}
    assert not {"Loop", "If", "Scan"} & (operators(step).keys() | inside)
    for part in step.parent.glob("step*.onnx"):
        onnx.checker.check_model(str(part), full_check=True)


@pytest.mark.parametrize("name", ["one_loop", "nested", "solve"])
@pytest.mark.parametrize("depth", [1, 5, 1000])
def test_depth_is_that_of_the_rolled_file(files: Files, name: str, depth: int) -> None:
    program, step, rolled = files(name)
    ours, theirs = OnnxModel(step), OnnxModel(rolled)
    assert_same(ours(*program.example_inputs, depth=depth), theirs(*program.example_inputs, depth=depth))
    assert ours.steps_taken == depth


def test_depths_out_of_range_are_refused(files: Files) -> None:
    program, step, _ = files("one_loop")
    for depth in (0, -1, 1_000_001, True):
        with pytest.raises(OptionError):
            OnnxModel(step)(*program.example_inputs, depth=depth)
    program, step, _ = files("per_step")
    with pytest.raises(InputError, match="takes depths of: none"):
        OnnxModel(step)(*program.example_inputs, depth=2)


def test_a_step_in_the_middle_needs_as_many_steps(tmp_path: Path) -> None:
    program = MAKERS["one_loop"](used=2)
    to_onnx(program, tmp_path / "step.onnx", form="step")
    to_onnx(program, tmp_path / "rolled.onnx", verify=False)
    ours, theirs = OnnxModel(tmp_path / "step.onnx"), OnnxModel(tmp_path / "rolled.onnx")
    for depth in (3, 7):
        assert_same(ours(*program.example_inputs, depth=depth), theirs(*program.example_inputs, depth=depth))
    with pytest.raises(OptionError, match="step 3"):
        ours(*program.example_inputs, depth=2)
    assert [step.number for step in ours.stream(*program.example_inputs)] == [3, 4, 5]


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("name", ["one_loop", "nested", "per_step", "solve"])
def test_the_batch_is_open(files: Files, name: str, rows: int) -> None:
    program, step, rolled = files(name)
    picked = torch.arange(rows) % len(program.example_inputs[0])
    inputs = [value[picked] for value in program.example_inputs]
    assert_same(OnnxModel(step)(*inputs), OnnxModel(rolled)(*inputs))


@pytest.mark.parametrize("name", ["one_loop", "solve"])
def test_a_stream_is_every_depth(files: Files, name: str) -> None:
    program, step, rolled = files(name)
    ours, theirs = OnnxModel(step), OnnxModel(rolled)
    streamed = list(ours.stream(*program.example_inputs, depth=4))
    assert [made.number for made in streamed] == [1, 2, 3, 4]
    for made in streamed:
        assert made.done is None
        assert_same(made.answers, theirs(*program.example_inputs, depth=made.number))


def test_a_stream_that_is_left_takes_no_further_step(files: Files) -> None:
    program, step, _ = files("one_loop")
    model = OnnxModel(step)
    for made in model.stream(*program.example_inputs, depth=1_000_000):
        if made.number == 3:
            break
    assert model.steps_taken == 3


def test_answers_of_a_stream_are_the_callers(files: Files) -> None:
    program, step, _ = files("one_loop")
    model = OnnxModel(step)
    untouched = [made.answers for made in model.stream(*program.example_inputs)]
    for made, expected in zip(model.stream(*program.example_inputs), untouched, strict=True):
        assert_same(made.answers, expected)
        for answer in made.answers.values():
            answer.zero_()


def test_other_forms_have_no_stream(files: Files) -> None:
    program, _, rolled = files("one_loop")
    with pytest.raises(OptionError, match="form='step'"):
        OnnxModel(rolled).stream(*program.example_inputs)
    assert OnnxModel(rolled).steps_taken is None


def test_inputs_are_checked_before_the_first_step(files: Files) -> None:
    program, step, _ = files("one_loop")
    model = OnnxModel(step)
    x, z = program.example_inputs
    with pytest.raises(InputError, match="has shape"):
        model.stream(x[:, :2], z)
    with pytest.raises(ArithmeticError, match="NaN"):
        model(x * torch.nan, z)
    with pytest.raises(InputError, match="batch"):
        model(x[:1], z)
    model.close()
    with pytest.raises(InputError, match="closed"):
        model(x, z)


def test_threads_share_a_model(files: Files) -> None:
    program, step, _ = files("one_loop")
    model = OnnxModel(step, session_options={"intra_op_num_threads": 1})
    depths = [1, 2, 3, 4] * 8
    expected = {depth: model(*program.example_inputs, depth=depth) for depth in set(depths)}

    def call(depth: int) -> tuple[int, dict[str, Any]]:
        answers = model(*program.example_inputs, depth=depth)
        assert model.steps_taken == depth
        return depth, answers

    with ThreadPoolExecutor(4) as pool:
        for depth, answers in pool.map(call, depths):
            assert_same(answers, expected[depth])


def test_warming_up_leaves_the_model_as_it_was(files: Files) -> None:
    model = OnnxModel(files("one_loop")[1])
    model.warm_up(sizes={"batch": 3})
    assert model(*files("one_loop")[0].example_inputs)


def test_a_fixed_depth_is_written(tmp_path: Path, files: Files) -> None:
    program, _, rolled = files("one_loop")
    to_onnx(program, tmp_path / "m.onnx", form="step", depth_inputs=False, verify=False)
    model = OnnxModel(tmp_path / "m.onnx")
    assert_same(model(*program.example_inputs), OnnxModel(rolled)(*program.example_inputs))
    with pytest.raises(InputError, match="none"):
        model(*program.example_inputs, depth=3)


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        to_onnx(MAKERS["nested"](), tmp_path / folder / "m.onnx", form="step", verify=False)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("name", ["one_loop", "solve"])
def test_a_file_is_verified_without_its_model(files: Files, tmp_path: Path, name: str) -> None:
    program, step, _ = files(name)
    reference = write_reference(program, step, tmp_path / "r.safetensors")
    checked = verify_exported(step, reference)
    assert checked.form == "step"
    assert checked.checksum
    assert checked.runs[-1] == "the reference batch"
    assert checked.max_error < 1e-4


def test_triton_is_given_no_step(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a host repeats"):
        serve_config(files("one_loop")[1], tmp_path / "models")
    assert not (tmp_path / "models").exists()


class Stepwise(nn.Module):
    """A call is one step: (carry, x) → (carry, score)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, carry: dict[str, Tensor], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        z = carry["z"]
        for _ in range(3):
            z = F.silu(self.mix(z + x)) + z * 0.5
        return {"z": z, "count": carry["count"] + 1}, z.mean(-1)


@pytest.fixture(scope="module")
def stepwise() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model = Stepwise().eval()
    inputs = ({"z": random(2, 8), "count": torch.zeros(2, dtype=torch.int64)}, random(2, 8, seed=1))
    return model, inputs, _program(model, *inputs)


@pytest.mark.parametrize("state", ["auto", {"carry.z": "0.z", "carry.count": "0.count"}])
def test_a_model_whose_call_is_a_step(stepwise: Any, tmp_path: Path, state: Any) -> None:
    model, (carry, x), program = stepwise
    written = to_onnx(program, tmp_path / "m.onnx", form="step", state=state)
    assert "depth = 2" in written.verification.runs
    assert written.parts == ()
    onnx_model = OnnxModel(tmp_path / "m.onnx")
    with torch.no_grad():
        for made in onnx_model.stream(carry, x, depth=5):
            carry, score = model(carry, x)
            expected = {"0.z": carry["z"], "0.count": carry["count"], "1": score}
            assert_same(made.answers, expected)
    assert_same(onnx_model(stepwise[1][0], x, depth=5), expected)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"carry.q": "0.z"}, "no input 'carry.q'"),
        ({"carry.z": "0.q"}, "no output '0.q'"),
        ({"carry.z": "1"}, "takes"),
        ({"carry.z": "0.z", "x": "0.z"}, "two inputs"),
        ({}, "no structure"),
    ],
)
def test_states_that_are_none(stepwise: Any, tmp_path: Path, state: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        to_onnx(stepwise[2], tmp_path / "m.onnx", form="step", state=state)
    assert not list(tmp_path.iterdir())


def test_state_belongs_to_the_form(stepwise: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="form='step'"):
        to_onnx(stepwise[2], tmp_path / "m.onnx", state="auto")


class Unread(nn.Module):
    """Its steps make predictions that only the last one keeps: the body never reads what it carries of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def body(i: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            z = torch.tanh(self.layer(carry[0]) + x)
            return z, self.head(z)

        start = torch.zeros_like(x), x.new_zeros(x.shape[0], 3)
        result: tuple[Tensor, Tensor] = laser_fx.loop(body, start, 4)
        return result


def test_a_state_that_no_step_reads_is_handed_to_the_finish(tmp_path: Path) -> None:
    model, x = Unread().eval(), random(3, 8)
    compiled = laser_fx.compile(model, (x,), options=laser_fx.Options.exact())
    file = compiled.to_onnx(tmp_path / "m.onnx", form="step")
    with torch.no_grad():
        for answer, expected in zip(OnnxModel(file.path)(x).values(), model(x), strict=True):
            torch.testing.assert_close(answer, expected)


def test_a_step_through_bases_of_its_own_is_run_again_without_them(tmp_path: Path) -> None:
    model, x = Contractive().eval(), low_rank(6, 32)
    compiled = laser_fx.compile(model, (x,), options=laser_fx.Options.exact())
    program, bases = compiled.program, dict[str, SiteBasis]()
    for site in program.sites:
        (trips,) = program.nest.trips_around(site.loop)
        drawn = [torch.linalg.qr(random(site.outputs, site.outputs // 2, seed=step))[0] for step in range(trips)]
        bases[site.key] = SiteBasis("output", torch.stack(drawn))
    calibration = Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ())
    narrow = laser_fx.compile(model, (x,), options=laser_fx.Options(basis="per_step"), calibration=calibration)
    run = OnnxModel(narrow.to_onnx(tmp_path / "m.onnx", form="step").path)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(run(x).values())), narrow(x))
        assert run.replays == 0
        torch.testing.assert_close(next(iter(run(x, fidelity=1.0).values())), model(x))
        assert run.replays == trips
