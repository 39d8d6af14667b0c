"""A compiled model where a model is expected: copies, files, devices, wrappers, and other compilers."""

from __future__ import annotations

import ast
import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import laser_fx
from laser_fx.backend import Backend
from laser_fx.compiler import CompiledModel
from laser_fx.errors import CaptureError, InputError
from laser_fx.options import Options
from tests.small import WIDTH, Contractive, Parts, backward, low_rank, same

ROWS = 4
PACKAGE = Path(laser_fx.__file__).parent


class Looped(Parts):
    """A loop with a buffer of its own and one that no state_dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.trips = 3
        self.register_buffer("shift", torch.randn(WIDTH))
        self.register_buffer("scratch", torch.ones(WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(self.trips):
            z = torch.tanh(self.a(z) * self.scratch + self.shift + x)
        return z

    def get_extra_state(self) -> dict[str, int]:
        return {"trips": self.trips}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.trips = state["trips"]


@pytest.fixture
def model() -> Looped:
    return Looped().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS, WIDTH)


@pytest.fixture
def compiled(model: Looped, x: Tensor) -> CompiledModel:
    return laser_fx.compile(model, (x,), options=Options.exact())


def agree(compiled: nn.Module, model: nn.Module, *inputs: Tensor) -> bool:
    with torch.no_grad():
        return same(compiled(*inputs), model(*inputs))


def test_state_dicts_are_interchangeable(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    assert list(compiled.state_dict()) == list(model.state_dict())
    assert "_extra_state" in compiled.state_dict()
    other = Looped().eval()
    other.trips = 5
    assert compiled.load_state_dict(other.state_dict(), strict=True)
    assert model.trips == 5
    assert agree(compiled, other, x)
    assert compiled.loops.trips() == ((0, 5),)
    with pytest.raises(RuntimeError, match="Missing key"):
        compiled.load_state_dict({})


def test_state_files_are_interchangeable(model: Looped, compiled: CompiledModel, x: Tensor, tmp_path: Path) -> None:
    torch.save(compiled.state_dict(), tmp_path / "compiled.pt")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for name in ("compiled.pt", "model.pt"):
        state = torch.load(tmp_path / name, weights_only=True)
        fresh = Looped().eval()
        fresh.load_state_dict(state)
        again = laser_fx.compile(Looped().eval(), options=Options.exact())
        again.load_state_dict(state)
        assert agree(again, fresh, x)
        assert agree(fresh, model, x)


def test_tensors_that_are_assigned_are_used(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    first, other = compiled.program, Looped()
    compiled.load_state_dict(other.state_dict(), assign=True)
    assert model.a.weight.data_ptr() == other.a.weight.data_ptr()
    assert agree(compiled, model, x)
    assert compiled.program is first


def test_a_module_around_it_saves_and_loads_it(compiled: CompiledModel, model: Looped, x: Tensor) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = compiled, nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x))

    outer = Outer()
    assert {"inner.a.weight", "inner._extra_state", "head.bias"} <= outer.state_dict().keys()
    outer.train()
    assert model.training
    outer.eval()
    state = {name: value * 2 if isinstance(value, Tensor) else value for name, value in outer.state_dict().items()}
    outer.load_state_dict(state)
    assert torch.equal(model.a.weight, state["inner.a.weight"])
    outer.double()
    assert model.shift.dtype == torch.float64
    assert agree(compiled, model, x.double())
    whole = laser_fx.compile(outer, (x.double(),), options=Options.exact())
    assert agree(whole, outer, x.double())
    assert whole.loops.trips() == ((0, 3),), "a compiled model inside of another one is seen through"


def test_a_copy_is_compiled_already_and_has_weights_of_its_own(
    model: Looped, compiled: CompiledModel, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled.register_forward_hook(lambda module, args, output: output + 1)
    monkeypatch.setattr("laser_fx.passes.pipeline.capture", None)  # there is nothing to capture
    twin = copy.deepcopy(compiled)
    assert twin.loops.trips() == compiled.loops.trips()
    assert agree(twin, compiled, x)
    with torch.no_grad():
        twin.a.weight.zero_()
        assert same(compiled(x), model(x) + 1)
    assert not agree(twin, compiled, x)
    assert twin.program.model is not model


def test_a_copy_inside_of_another_module_is_made_once(compiled: CompiledModel) -> None:
    pair = copy.deepcopy(nn.ModuleList([compiled, compiled, compiled.a]))
    assert pair[0] is pair[1]
    assert pair[2] is pair[0].a


def test_it_pickles_as_the_model_does(compiled: CompiledModel, x: Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(compiled, buffer)
    buffer.seek(0)
    for again in (pickle.loads(pickle.dumps(compiled)), torch.load(buffer, weights_only=False)):
        assert again.options == compiled.options
        assert agree(again, compiled, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_dtype_is_compiled_anew(dtype: torch.dtype, model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    first = compiled.program
    assert compiled.to(dtype) is compiled
    assert agree(compiled, model, x.to(dtype))
    assert compiled.program is not first
    assert agree(compiled.float(), model, x)


def test_another_dtype_is_seen_where_no_input_tells() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, tokens: Tensor) -> Tensor:
            start = z = self.embed(tokens)
            for _ in range(3):
                z = torch.tanh(self.mix(z) + start).to(start.dtype)
            return z

    model, tokens = Tokens().eval(), torch.randint(5, (ROWS, 6))
    compiled = laser_fx.compile(model, (tokens,), options=Options.exact())
    for _ in (compiled.bfloat16(), compiled.double()):
        assert agree(compiled, model, tokens)
        assert compiled(tokens).dtype == model.mix.weight.dtype


def test_it_goes_to_meta_and_back(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    compiled.to("meta")
    output = compiled(x.to("meta"))
    assert output.is_meta
    assert output.shape == x.shape
    state = Looped().state_dict()
    compiled.to_empty(device="cpu")
    compiled.load_state_dict(state)
    nn.init.ones_(model.scratch)
    assert agree(compiled, model, x)


@pytest.mark.gpu
def test_it_goes_to_a_gpu_and_back(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    assert agree(compiled.cuda(), model, x.cuda())
    assert agree(compiled.cpu(), model, x)


def test_inference_mode(model: Looped, x: Tensor) -> None:
    compiled = laser_fx.compile(model, options=Options(sites="all"))
    with torch.inference_mode():
        made_here = torch.randn(ROWS, WIDTH)
        first = compiled(made_here)
        assert first.is_inference()
        assert same(compiled(made_here), first)
    with torch.no_grad():
        assert not compiled(x).is_inference()
    assert all(not value.is_inference() for value in compiled.program.constants.values())


def test_low_rank_survives_inference_mode_and_copies() -> None:
    model, x = Contractive().eval(), low_rank(2, 24, 32)
    compiled = laser_fx.compile(model, options=Options(rank=8, sites="all"))
    again = pickle.loads(pickle.dumps(compiled))
    with torch.inference_mode():
        output = compiled(x)
        assert same(copy.deepcopy(compiled)(x), output)
        assert same(again(x), output)


def test_weights_made_in_inference_mode_are_refused_by_name(x: Tensor) -> None:
    with torch.inference_mode():
        compiled = laser_fx.compile(Looped().eval())
        with pytest.raises(CaptureError, match=r"made under torch\.inference_mode") as raised:
            compiled(x)
    assert raised.value.where == "weight rows"


def test_frozen_parameters_stay_without_gradient(model: Looped, x: Tensor) -> None:
    model.train()
    compiled = laser_fx.compile(model, options=Options.exact())
    backward(compiled, model, x)
    model.a.weight.requires_grad_(False)
    assert same(backward(compiled, model, x), backward(model, model, x))
    assert model.a.weight.grad is None
    assert model.a.bias.grad is not None
    compiled.requires_grad_(False)
    assert not compiled(x).requires_grad


def test_hooks_of_the_compiled_model_run_at_every_call(compiled: CompiledModel, model: Looped, x: Tensor) -> None:
    calls: list[str] = []
    compiled.register_forward_pre_hook(lambda module, args: calls.append("before"))
    compiled.register_forward_hook(lambda module, args, output: output * 2)
    for _ in range(2):
        assert same(compiled(x), model(x) * 2)
    assert calls == ["before"] * 2


def test_hooks_of_parameters_and_submodules_run_in_training(model: Looped, x: Tensor) -> None:
    model.train()
    compiled = laser_fx.compile(model, options=Options.exact())
    calls: list[str] = []
    model.a.weight.register_hook(lambda grad: calls.append("parameter"))
    model.a.bias.register_post_accumulate_grad_hook(lambda bias: calls.append("accumulated"))
    backward(compiled, model, x)
    assert sorted(calls) == ["accumulated", "parameter"]
    model.a.register_full_backward_hook(lambda module, before, after: calls.append("module"))
    assert same(backward(compiled, model, x), backward(model, model, x))
    assert calls.count("module") == 2 * model.trips


def test_a_forward_hook_of_a_submodule_is_compiled(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    handle = model.a.register_forward_hook(lambda module, args, output: output * 2)
    assert agree(compiled, model, x)
    handle.remove()
    assert agree(compiled, model, x)


def test_shared_memory(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    assert compiled.share_memory() is compiled
    assert model.a.weight.is_shared()
    assert agree(compiled, model, x)


def test_attributes_are_those_of_the_model(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    compiled.trips = 5
    assert model.trips == 5
    assert agree(compiled, model, x)
    assert compiled.loops.trips() == ((0, 5),)
    compiled.shift = torch.zeros(WIDTH)
    assert model.shift is compiled.shift
    assert agree(compiled, model, x)
    del compiled.trips
    assert not hasattr(model, "trips")
    model.train()
    assert compiled.training


def test_the_structure_may_change_through_either(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    compiled.a = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    assert isinstance(model.a, nn.Sequential)
    assert agree(compiled, model, x)


def test_data_parallel_is_refused_with_a_reason(compiled: CompiledModel) -> None:
    with pytest.raises(InputError, match="cannot be replicated") as raised:
        compiled._replicate_for_data_parallel()  # what torch.nn.parallel.replicate asks of each module
    assert "DistributedDataParallel" in str(raised.value.fix)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_has_the_gradients_of_eager(model: Looped, x: Tensor) -> None:
    for unused in (model.b, model.untied, model.rows, model.start):
        unused.requires_grad_(False)
    model.train()
    wrapped = nn.parallel.DistributedDataParallel(laser_fx.compile(model, options=Options.exact()))
    assert same(backward(wrapped, model, x), backward(model, model, x))
    assert wrapped.module.loops.trips() == ((0, 3),)
    assert {name.removeprefix("module.") for name in wrapped.state_dict()} == model.state_dict().keys()


@pytest.mark.usefixtures("process_group")
def test_the_backend_takes_what_distributed_data_parallel_gives(model: Looped, x: Tensor) -> None:
    for unused in (model.b, model.untied, model.rows, model.start):
        unused.requires_grad_(False)
    model.train()
    wrapped = torch.compile(nn.parallel.DistributedDataParallel(model), backend=Backend(Options.exact()))
    assert same(backward(wrapped, model, x), backward(model, model, x))


def test_code_under_torch_compile_calls_it_between_two_graphs(compiled: CompiledModel, x: Tensor) -> None:
    @torch.compile(backend="eager")
    def around(x: Tensor) -> Tensor:
        return compiled(x * 2) + 1

    with torch.no_grad():
        assert same(around(x), compiled(x * 2) + 1)
        assert compiled.program.example_inputs[0].shape == x.shape
        assert same(torch.compile(compiled, backend="eager")(x), compiled(x))


def test_one_graph_around_it_is_refused_with_the_reason(compiled: CompiledModel, x: Tensor) -> None:
    def around(x: Tensor) -> Tensor:
        return compiled(x * 2) + 1

    with torch.no_grad(), pytest.raises(torch._dynamo.exc.Unsupported, match="laser_fx compiled is compiled already"):
        torch.compile(around, backend="eager", fullgraph=True)(x)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="laser_fx compiled is compiled already"):
        torch.export.export(compiled, (x,), strict=True)


def test_torch_export_sees_the_original(compiled: CompiledModel, model: Looped, x: Tensor) -> None:
    exported = torch.export.export(compiled, (x,), strict=False)
    assert agree(exported.module(), model, x)
    assert sum(node.target is torch.ops.aten.linear.default for node in exported.graph.nodes) == model.trips


def test_functional_call_uses_the_tensors_it_is_given(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    other = dict(Looped().named_parameters())
    with torch.no_grad():
        expected = torch.func.functional_call(model, other, (x,))
        assert same(torch.func.functional_call(compiled, other, (x,)), expected)
        assert not agree(compiled, lambda x: expected, x)  # type: ignore[arg-type]
    assert compiled.loops.trips() == ((0, 3),)


def gradient(run: nn.Module, x: Tensor) -> Any:
    parameters = {name: value.detach() for name, value in run.named_parameters()}
    return torch.func.grad(lambda p: torch.func.functional_call(run, p, (x,)).square().sum())(parameters)


def mapped(run: nn.Module, x: Tensor) -> Any:
    return torch.func.vmap(run)(x[:, None])


def tangent(run: nn.Module, x: Tensor) -> Any:
    return torch.func.jvp(run, (x,), (torch.ones_like(x),))


@pytest.mark.parametrize("transform", [gradient, mapped, tangent])
@pytest.mark.parametrize("is_compiled_before", [False, True])
def test_transforms_see_the_original(
    transform: Callable[[nn.Module, Tensor], Any], is_compiled_before: bool, model: Looped, x: Tensor
) -> None:
    compiled = laser_fx.compile(model, (x,) if is_compiled_before else None, options=Options.exact())
    assert same(transform(compiled, x), transform(model, x))


def test_tensors_of_a_subclass_see_the_original(model: Looped, compiled: CompiledModel, x: Tensor) -> None:
    class Image(Tensor):
        pass

    output = compiled(x.as_subclass(Image))
    assert isinstance(output, Image)
    assert torch.equal(output, model(x.as_subclass(Image)))


WAITS = {
    PACKAGE / "memory" / "stopwatch.py",  # for kernels that it times itself, when a plan is made and never in a call
    PACKAGE / "export" / "bind.py",  # ONNX Runtime has streams of its own: torch's have to be done with a tensor first
    PACKAGE / "export" / "cuda_graph.py",
    PACKAGE / "bench" / "run.py",  # for the calls that it times
    PACKAGE / "reporting" / "instruments" / "memory.py",  # likewise
}


def sources() -> list[Path]:
    """All that runs under torch alone."""
    return sorted(set(PACKAGE.rglob("*.py")) - WAITS)


def touches_streams(source: str) -> list[str]:
    """Names of CUDA's streams and synchronisation in a source."""
    names = {"synchronize", "Stream", "stream", "current_stream", "set_stream", "Event", "wait_stream"}
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and node.attr in names]
    # A `stream` of ours is one of answers: torch's stands below `cuda`.
    return [
        n.attr for n in found if n.attr != "stream" or (isinstance(n.value, ast.Attribute) and n.value.attr == "cuda")
    ]


def test_the_check_of_streams_can_fail() -> None:
    assert touches_streams("import torch\ntorch.cuda.synchronize()") == ["synchronize"]
    assert touches_streams("with torch.cuda.stream(other): ...") == ["stream"]
    assert touches_streams("self.loop.stream(inputs)") == []


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_streams_are_left_alone(path: Path) -> None:
    assert touches_streams(path.read_text(encoding="utf-8")) == []
