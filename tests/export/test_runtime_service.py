"""A model in service: providers and why not others, memory shared, threads, options, warm-up, the end."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from laser_fx.errors import InputError, NonFiniteError, OnnxFileError, OptionError
from laser_fx.export import OnnxFile, OnnxModel, to_onnx
from laser_fx.export import session as sessions
from laser_fx.export.bind import as_ort_value, as_tensor, run_bound
from laser_fx.export.checksum import KEY
from laser_fx.export.cuda_graph import with_cuda_graph
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.providers import CPU, CUDA, wanted_providers, why_not_loaded
from laser_fx.export.schema import MAX_TRIPS

Exported = Callable[[str], tuple[Any, OnnxFile]]


@pytest.fixture
def case(exported: Exported) -> tuple[Any, OnnxModel]:
    program, file = exported("one_loop")
    return program, OnnxModel(file.path, providers=[CPU])


class PretendsToHaveCuda:
    """An ONNX Runtime whose build has CUDA, on a machine where its libraries do not load."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.preloaded = 0
        self.__file__ = str(tmp_path / "__init__.py")
        self.InferenceSession = self._session
        monkeypatch.setattr(sessions, "onnxruntime", lambda: self)

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        self.preloaded += 1
        print("Failed to load libcudnn.so.9")

    def _session(self, content: bytes, settings: Any, providers: Any, **options: Any) -> Any:
        return onnxruntime.InferenceSession(content, settings, providers=[CPU], **options)


@pytest.fixture
def broken_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendsToHaveCuda:
    return PretendsToHaveCuda(tmp_path, monkeypatch)


def test_it_says_who_runs_it_and_why_another_does_not(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with caplog.at_level(logging.INFO, logger="laser_fx"):
        model = OnnxModel(exported("one_loop")[1].path)
    assert model.providers == (CPU,)
    assert "laser-fx[gpu]" in model.why_not[CUDA]
    assert "not on CUDAExecutionProvider" in caplog.text
    assert CPU in repr(model)


def test_cuda_that_cannot_be_loaded_is_a_warning_with_the_reason(
    exported: Exported, broken_cuda: PretendsToHaveCuda, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    program, file = exported("one_loop")
    with caplog.at_level(logging.WARNING, logger="laser_fx"):
        model = OnnxModel(file.path)
    assert broken_cuda.preloaded == 1
    assert capsys.readouterr().out == ""
    assert model.providers == (CPU,)
    assert "libonnxruntime_providers_shared.so cannot be loaded" in model.why_not[CUDA]
    assert model.why_not[CUDA] in caplog.text
    assert model(*program.example_inputs)["y"].shape == (2, 3, 16)


def test_a_provider_that_was_asked_for_alone_is_not_replaced(
    exported: Exported, broken_cuda: PretendsToHaveCuda
) -> None:
    with pytest.raises(OptionError, match=r"no provider of those asked for.*cannot be loaded"):
        OnnxModel(exported("one_loop")[1].path, providers=[CUDA])
    assert OnnxModel(exported("one_loop")[1].path, providers=[CUDA, CPU]).providers == (CPU,)


def test_libraries_that_load_leave_the_gpu_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("ctypes.CDLL", lambda name, mode: loaded.append(Path(name).name))
    assert "nvidia-smi" in why_not_loaded(onnxruntime, CUDA)
    assert loaded == ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"]


def test_an_onnx_runtime_that_cannot_preload_is_taken() -> None:
    old = SimpleNamespace(get_available_providers=lambda: [CUDA, CPU])
    assert wanted_providers(old, None) == [CUDA, CPU]


def test_providers_have_options(case: tuple[Any, OnnxModel]) -> None:
    _, model = case
    assert OnnxModel(model.path, providers=[(CPU, {"use_arena": "0"})]).providers == (CPU,)


def test_session_options_are_passed_through(case: tuple[Any, OnnxModel], tmp_path: Path) -> None:
    _, model = case
    written = tmp_path / "optimised.onnx"
    options = {"intra_op_num_threads": 1, "optimized_model_filepath": str(written), "session.disable_prepacking": 1}
    OnnxModel(model.path, session_options=options)
    assert written.exists()
    own = onnxruntime.SessionOptions()
    own.intra_op_num_threads = 1
    OnnxModel(model.path, session_options=own)
    assert own.get_session_config_entry("session.load_model_format") == "ONNX"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 1}, "no session option 'threads'"),
        ({"__class__": int}, "no session option"),
        ({"add_provider": 1}, "no session option"),
        ({"intra_op_num_threads": "many"}, "does not take 'many'"),
        (1, "session_options is 1"),
    ],
)
def test_unknown_session_options_are_refused(case: tuple[Any, OnnxModel], options: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        OnnxModel(case[1].path, session_options=options)


VALUES = [
    torch.arange(6.0).reshape(2, 3),
    torch.tensor(7),
    torch.tensor([True, False]),
    torch.ones(3, dtype=torch.float16),
    torch.ones(3, dtype=torch.bfloat16),
    torch.zeros(0, 4),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value.dtype))
def test_tensors_go_in_and_out_in_the_same_memory(value: Tensor) -> None:
    there = as_ort_value(onnxruntime, value.requires_grad_() if value.is_floating_point() else value)
    back = as_tensor(there)
    assert back.data_ptr() == value.data_ptr() == (there.data_ptr() if value.numel() else 0)
    assert back.dtype is value.dtype
    assert torch.equal(back, value)


def test_without_dlpack_the_same_values_go_in(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(
        OrtValue=SimpleNamespace(ortvalue_from_numpy=onnxruntime.OrtValue.ortvalue_from_numpy), __version__="1.22"
    )
    assert torch.equal(as_tensor(as_ort_value(old, VALUES[0])), VALUES[0])
    with pytest.raises(InputError, match=r"1\.22 takes no torch\.bfloat16"):
        as_ort_value(old, VALUES[4])


def test_bound_outputs_are_those_of_a_plain_run(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = program.example_inputs
    plain, mixed = model(x.numpy(), z.numpy()), model(x, z.numpy())
    names = [value for _, value in model.metadata.outputs]
    feed = {"batch.inputs": x, "carry.z": z.numpy()}
    bound = run_bound(onnxruntime, model._session, feed, names, torch.device("cpu"))
    for (name, value), tensor in zip(plain.items(), bound, strict=True):
        assert np.array_equal(tensor.numpy(), value)
        assert np.array_equal(mixed[name].numpy(), value)


def test_on_the_cpu_nothing_is_copied(case: tuple[Any, OnnxModel], monkeypatch: pytest.MonkeyPatch) -> None:
    program, model = case
    seen: list[Any] = []
    run = model._session.run

    def watched(names: Any, feed: Any) -> Any:
        answers = run(names, feed)
        seen.append((feed, answers))
        return answers

    monkeypatch.setattr(model._session, "run", watched)
    x, z = program.example_inputs
    answers = model(x, z)
    ((feed, given),) = seen
    assert [feed[name].ctypes.data for name in model.input_names] == [x.data_ptr(), z.data_ptr()]
    assert [array.ctypes.data for array in given] == [tensor.data_ptr() for tensor in answers.values()]
    assert not any(array.flags.owndata for array in given), "ONNX Runtime's own memory, held by the array"


def test_bfloat16_goes_in_and_out_by_dlpack(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [value("x", onnx.TensorProto.BFLOAT16, ["n"])],
        [value("y", onnx.TensorProto.BFLOAT16, ["n"])],
    )
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 20)])
    metadata = FileMetadata(form="unrolled", inputs=("x",), outputs=(("y", "y"),))
    onnx.helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, tmp_path / "m.onnx")
    x = torch.arange(4, dtype=torch.bfloat16)
    assert torch.equal(OnnxModel(tmp_path / "m.onnx", providers=[CPU])(x)["y"], x)


def test_truth_values_go_through_a_session(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Not", ["x"], ["y"])],
        "not",
        [value("x", onnx.TensorProto.BOOL, ["n"])],
        [value("y", onnx.TensorProto.BOOL, ["n"])],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    content = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=[CPU])
    (answer,) = run_bound(onnxruntime, session, {"x": torch.tensor([True, False])}, ["y"], torch.device("cpu"))
    assert torch.equal(answer, torch.tensor([False, True]))


def test_answers_outlive_the_model_and_each_other(exported: Exported) -> None:
    program, file = exported("one_loop")
    model = OnnxModel(file.path)
    first = model(*program.example_inputs)["y"]
    kept = first.clone()
    second = model(*(2 * value for value in program.example_inputs))["y"]
    assert not torch.equal(first, second)
    model.close()
    del model
    gc.collect()
    assert torch.equal(first, kept)


def test_a_closed_model_says_so(exported: Exported) -> None:
    program, file = exported("one_loop")
    with OnnxModel(file.path) as model:
        model(*program.example_inputs)
    model.close()
    assert "closed" in repr(model)
    for call in (lambda: model(*program.example_inputs), lambda: model.warm_up()):
        with pytest.raises(InputError, match="the model is closed"):
            call()


def test_threads_share_a_model_and_each_has_its_own_stats(exported: Exported) -> None:
    program, file = exported("tracked")
    model = OnnxModel(file.path)
    (x,) = program.example_inputs
    depths = [1 + number % 6 for number in range(48)]
    alone = {depth: model(x, depth=depth)["y"] for depth in set(depths)}
    barrier = threading.Barrier(4)

    def call(depth: int) -> tuple[int, Tensor, Any]:
        barrier.wait(timeout=30)
        answer = model(x, depth=depth)["y"]
        return depth, answer, model.stats["loop_0:up"].shape

    with ThreadPoolExecutor(4) as pool:
        for depth, answer, shape in pool.map(call, depths):
            assert torch.equal(answer, alone[depth])
            assert shape == (depth, 5)


def test_closing_lets_calls_that_run_end(exported: Exported) -> None:
    program, file = exported("one_loop")
    model, expected = OnnxModel(file.path), OnnxModel(file.path)(*program.example_inputs, depth=3000)["y"]
    results: list[Any] = []

    def work() -> None:
        try:
            while True:
                results.append(model(*program.example_inputs, depth=3000)["y"])
        except InputError as error:
            results.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while not results:
        pass
    model.close()
    thread.join(timeout=60)
    *answers, last = results
    assert "the model is closed" in last
    assert all(torch.equal(answer, expected) for answer in answers)


def test_warm_up_makes_inputs_and_leaves_stats_alone(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    program, file = exported("tracked")
    model = OnnxModel(file.path)
    seen: list[Any] = []
    run = model._session.run
    monkeypatch.setattr(model._session, "run", lambda *a: seen.append(a) or run(*a))
    model.warm_up(sizes={"batch": 3}, calls=4, depth=2)
    assert len(seen) == 4
    assert model.stats == {}
    model.warm_up(*program.example_inputs, calls=1)
    with pytest.raises(InputError, match="'batch' has no size"):
        model.warm_up(sizes={"width": 3})


def test_nan_is_refused_and_infinity_is_not(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = program.example_inputs
    bad = z.clone()
    bad[1, 2, 3] = float("nan")
    for value in (bad, bad.numpy()):
        with pytest.raises(NonFiniteError, match=r"'carry\.z' holds NaN"):
            model(x, value)
    model(x, torch.full_like(z, float("inf")))


@pytest.mark.parametrize("depth", [0, MAX_TRIPS + 1, 10**30])
def test_a_depth_beyond_the_bound_is_refused(case: tuple[Any, OnnxModel], depth: int) -> None:
    program, model = case
    with pytest.raises(OptionError, match="from 1 to 1,000,000"):
        model(*program.example_inputs, depth=depth)


def test_no_rows_are_refused(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    with pytest.raises(InputError, match=r"has shape \(0, 3, 16\)"):
        model(*(value[:0] for value in program.example_inputs))


def test_what_onnx_runtime_says_of_values_is_an_error_of_ours(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("one_loop")[1].path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (gather,) = (node for node in model.graph.node if node.op_type == "Gather")
    (index,) = (t for t in model.graph.initializer if t.name == gather.input[1])
    index.CopyFrom(onnx.numpy_helper.from_array(np.array(99, np.int64), index.name))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    program = exported("one_loop")[0]
    with pytest.raises(InputError, match="cannot run the file on these inputs"):
        OnnxModel(tmp_path / "m.onnx")(*program.example_inputs)


def test_a_dtype_without_a_kernel_names_node_and_provider(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("one_loop")[1].path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    constant = onnx.helper.make_tensor("c", onnx.TensorProto.BFLOAT16, [2], [1.0, 2.0])
    model.graph.initializer.append(constant)
    model.graph.node.append(onnx.helper.make_node("Tanh", ["c"], ["unused"], name="bent"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("unused", onnx.TensorProto.BFLOAT16, [2]))
    (entry,) = (e for e in model.metadata_props if e.key == "laser_fx.outputs")
    entry.value = entry.value[:-1] + ', ["unused", "unused"]]'
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=r"CPUExecutionProvider cannot run Tanh .* node 'bent'"):
        OnnxModel(tmp_path / "m.onnx", providers=[CPU])


def test_an_opset_that_the_runtime_lacks_is_named(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("one_loop")[1].path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.opset_import[0].version = 99
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=r"the file has opset 99, this ONNX Runtime knows them up to \d\d"):
        OnnxModel(tmp_path / "m.onnx", providers=[CPU])


def test_a_cuda_graph_needs_a_file_without_branches(exported: Exported) -> None:
    with pytest.raises(OptionError, match="'loop_0' is a Loop"):
        OnnxModel(exported("one_loop")[1].path, cuda_graph=True)
    assert with_cuda_graph(None) == [(CUDA, {"enable_cuda_graph": "1"})]
    assert with_cuda_graph([(CUDA, {"device_id": 1}), CPU]) == [(CUDA, {"device_id": 1, "enable_cuda_graph": "1"}), CPU]
    with pytest.raises(OptionError, match="needs CUDA"):
        with_cuda_graph([CPU])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, OnnxFile]:
    from tests.export.conftest import one_loop

    program = one_loop(trips=2)
    return program, to_onnx(program, tmp_path_factory.mktemp("straight") / "m.onnx", form="unrolled", verify=False)


def test_a_cuda_graph_without_cuda_says_what_is_missing(straight: tuple[Any, OnnxFile]) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(OptionError, match="'CUDAExecutionProvider' is not in this build"):
        OnnxModel(straight[1].path, cuda_graph=True)


@pytest.mark.gpu
def test_cuda_tensors_stay_on_the_gpu(exported: Exported) -> None:
    program, file = exported("one_loop")
    model = OnnxModel(file.path)
    assert model.providers[0] == CUDA, model.why_not
    expected = OnnxModel(file.path, providers=[CPU])(*program.example_inputs)
    answers = model(*(value.cuda() for value in program.example_inputs))
    for name, value in answers.items():
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), expected[name], atol=1e-3, rtol=1e-3)
    assert not model(*program.example_inputs)["y"].is_cuda


@pytest.mark.gpu
def test_a_cuda_graph_answers_as_the_cpu_does_at_every_shape(straight: tuple[Any, OnnxFile]) -> None:
    program, file = straight
    model = OnnxModel(file.path, cuda_graph=True)
    on_cpu = OnnxModel(file.path, providers=[CPU])
    model.warm_up(sizes=2)
    for repeat in (1, 2, 1, 3, 1):
        inputs = [torch.cat([repeat * value] * repeat) for value in program.example_inputs]
        first = model(*(value.cuda() for value in inputs))
        second = model(*(0 * value.cuda() for value in inputs))
        expected = on_cpu(*inputs)
        for name, value in first.items():
            torch.testing.assert_close(value.cpu(), expected[name], atol=1e-3, rtol=1e-3)
        assert not torch.equal(first["carry.z"], second["carry.z"])
    with pytest.raises(InputError, match="takes CUDA tensors"):
        model(*program.example_inputs)
