"""Files of 16 bits and in double precision: verified where a CPU lacks their kernels, refused where they are wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.errors import ExportError, OnnxFileError, VerificationError
from laser_fx.export import OnnxModel, verify_exported, write_reference
from laser_fx.export.expanded import own_name, source_of
from laser_fx.export.in_float32 import ProgramInFloat32, file_in_float32, floating_dtypes
from laser_fx.export.model_file import read_model_file
from laser_fx.export.tolerances import FLOAT32, tolerance_in_float32, tolerance_of
from tests.small import WIDTH, model, step


class Gelu(nn.Module):
    """ONNX has a Gelu, ONNX Runtime's CPU has none for doubles: it makes an Erf of it, which it has not either."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x
        for _ in range(3):
            z = self.inner(z) * 0.1 + x
        return z, z.argmax(-1)


def summed(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        z = torch.sin(self.a(z)) + x
    return z


def looped(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        z = step(self, z, x)
    return z


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gelu": Gelu,
    "looped": lambda: model(looped),
    "sin": lambda: model(summed),
}


@functools.cache
def compiled(name: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    module = MODELS[name]().eval().to(dtype)
    with torch.no_grad():
        return laser_fx.compile(
            module, example_inputs=(torch.randn(3, WIDTH, dtype=dtype),), options=laser_fx.Options.exact()
        )


def test_half_precision_runs_as_it_is_and_in_float32(tmp_path: Path) -> None:
    verification = compiled("gelu", torch.float16).to_onnx(tmp_path / "m.onnx").verification
    assert verification.not_run is None
    assert {"4 rows", "4 rows, in float32"} <= set(verification.runs)
    assert 0 < verification.max_error < tolerance_of(["float16"]).exact


@pytest.mark.parametrize(("name", "dtype"), [("looped", torch.bfloat16), ("gelu", torch.float64)])
def test_what_the_cpu_lacks_is_verified_in_float32_and_said(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    file = compiled(name, dtype).to_onnx(tmp_path / "m.onnx")
    assert "CPUExecutionProvider cannot run" in file.verification.not_run
    assert all(run.endswith("in float32") for run in file.verification.runs)
    with pytest.raises(OnnxFileError, match=r"CPUExecutionProvider cannot run \w+ \(opset \d+\).*node 'loop_0/\S+'"):
        OnnxModel(file.path)


def test_an_operator_that_onnx_runtime_made_is_told_by_its_node(tmp_path: Path) -> None:
    file = compiled("gelu", torch.float64).to_onnx(tmp_path / "m.onnx")
    assert "'loop_0/inner.1/gelu/Gelu', a Gelu" in file.verification.not_run


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wrong_file_of_16_bits_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """By less than its own rounding would hide."""
    program = compiled("looped", dtype).program

    class Changing:
        """The weights of the file are not those of the program that it is compared with."""

        reads = 0

        def __getattr__(self, name: str) -> Any:
            value = getattr(program, name)
            if name != "weights":
                return value
            self.reads += 1
            return {k: v * 1.1 for k, v in value.items()} if self.reads > 1 else value

    with pytest.raises(VerificationError, match="differs by"):
        laser_fx.export.to_onnx(Changing(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_the_opset_lacks_names_the_opset_that_has_it(tmp_path: Path) -> None:
    module = compiled("sin", torch.bfloat16)
    with pytest.raises(ExportError, match=r"Sin takes no bfloat16[^$]*loop_0/sin/Sin[^$]*opset=22"):
        module.to_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert (
        module.to_onnx(tmp_path / "m.onnx", opset=22).verification.max_error < tolerance_in_float32(["bfloat16"]).exact
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_of_16_bits_is_checked_without_its_model(tmp_path: Path, dtype: torch.dtype) -> None:
    module = compiled("looped", dtype)
    file = module.to_onnx(tmp_path / "m.onnx")
    reference = write_reference(module.program, file.path, tmp_path / "m.safetensors")
    checked = verify_exported(file.path, reference)
    assert "the reference batch, in float32" in checked.runs
    assert (checked.not_run is None) == (dtype == torch.float16)


def test_a_reference_of_another_model_is_seen_in_16_bits(tmp_path: Path) -> None:
    file = compiled("looped", torch.bfloat16).to_onnx(tmp_path / "m.onnx")
    other = compiled("looped", torch.bfloat16).program
    swapped = type("Swapped", (), {"__getattr__": lambda self, name: getattr(other, name)})()
    swapped.weights = {name: -value for name, value in other.weights.items()}
    reference = write_reference(swapped, file.path, tmp_path / "m.safetensors")
    with pytest.raises(VerificationError, match="against the reference"):
        verify_exported(file.path, reference)


def test_a_file_in_float32_has_no_other_floating_dtype(tmp_path: Path) -> None:
    file = read_model_file(compiled("gelu", torch.float16).to_onnx(tmp_path / "m.onnx").path)
    assert "float16" in floating_dtypes(file.model)
    twin = file_in_float32(file)
    assert twin is not None
    assert floating_dtypes(twin.model) == {"float32"}
    onnx.checker.check_model(twin.model, full_check=True)
    assert "float16" in floating_dtypes(file.model), "the file itself is as it was"


def test_a_program_in_float32_computes_in_it_alone() -> None:
    program = compiled("gelu", torch.bfloat16).program
    twin: Any = ProgramInFloat32(program)
    values = {**twin.weights, **dict(zip(twin.user_inputs, twin.example_inputs, strict=True))}
    for module in (twin.graph_module, twin.captured):
        results = module(*(values[p.name] for p in module.graph.find_nodes(op="placeholder")))
        assert results[0].dtype == torch.float32
    assert twin.input_names == program.input_names


def test_tolerances_grow_with_the_unit_roundoff() -> None:
    found = [tolerance_of([name]).exact for name in ("float64", "float32", "float16", "bfloat16")]
    assert found == sorted(found)
    assert found[2] == pytest.approx(20 * np.finfo(np.float16).eps / 2, rel=0.05)
    assert tolerance_of(["float64", "float32"]) == FLOAT32
    assert tolerance_in_float32(["bfloat16"]).exact < tolerance_of(["bfloat16"]).exact


def test_names_that_onnx_runtime_gives_are_told_as_the_files_own() -> None:
    node = onnx.helper.make_node("Gelu", ["x"], ["y"], name="a/Gelu")
    graph = onnx.helper.make_graph([node], "g", [], [])
    written = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    assert own_name(written, "_inlfunc_loop_0_a/Gelu") == "a/Gelu"
    assert own_name(written, "b/Gelu") == "b/Gelu"
    assert source_of(written, "Erf").name == "a/Gelu"  # type: ignore[union-attr]
    assert source_of(written, "Conv") is None
