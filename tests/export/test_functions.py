"""The ONNX functions decide and compute as the eager operators do."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor

from laser_fx import folded_ops, ops, subspace
from laser_fx.export import functions

assert ops.track is not None  # the import registers the operators
OUTPUTS = {"track": 4, "reset": 3, "orthonormalise": 1}
OUTPUTS |= {"fold": 1, "folded_linear": 1, "folded_linear_unbiased": 1, "output_linear": 5, "output_linear_unbiased": 5}
LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")


@functools.cache
def session(name: str, ranks: tuple[int, ...], level: str) -> Any:
    inputs = [f"input_{position}" for position in range(len(ranks))]
    outputs = [f"output_{position}" for position in range(OUTPUTS[name])]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(name, inputs, outputs, domain=functions.DOMAIN)],
        "graph",
        [
            onnx.helper.make_tensor_value_info(i, onnx.TensorProto.FLOAT, [f"{i}_{axis}" for axis in range(rank)])
            for i, rank in zip(inputs, ranks, strict=True)
        ],
        [onnx.ValueInfoProto(name=output) for output in outputs],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(functions.DOMAIN, 1)],
        functions=[ir.to_proto(function) for function in functions.all_functions(20)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def call(name: str, *inputs: Tensor, level: str = "ORT_ENABLE_ALL") -> list[Tensor]:
    running = session(name, tuple(value.ndim for value in inputs), level)
    feed = {f"input_{position}": value.numpy() for position, value in enumerate(inputs)}
    return [torch.from_numpy(np.array(output)) for output in running.run(None, feed)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ill_conditioned(features: int, rank: int, condition: float) -> Tensor:
    u = torch.linalg.qr(random(features, rank).double())[0]
    v = torch.linalg.qr(random(rank, rank, seed=1).double())[0]
    values = torch.logspace(0, -float(np.log10(condition)), rank, dtype=torch.float64)
    return ((u * values) @ v.mT).float()


ACTIVATIONS = {
    "low rank": random(30, 3, seed=1) @ random(3, 12, seed=2) + 0.05 * random(30, 12, seed=3),
    "full rank": random(30, 12, seed=4),
    "three dimensions": random(2, 15, 12, seed=4),
    "few rows": random(2, 12, seed=5),
    "zero": torch.zeros(30, 12),
    "not a number": torch.full((30, 12), torch.nan),
}
BASES = {"random": subspace.orthonormalise(subspace.sketch(12, 4, 0)), "empty": torch.zeros(12, 4)}
BASES["not orthonormal"] = BASES["random"] * 1.01


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_step_decides_and_measures_as_eager(activation: str, basis: str, level: str) -> None:
    x, q, sketch = ACTIVATIONS[activation], BASES[basis], subspace.sketch(12, 4, 9)
    for threshold in (0.2, 0.8, 0.97, 1.0):
        at = torch.tensor(threshold)
        tracked = torch.ops.laser.track(x, q, at)
        expected_q, _, expected = torch.ops.laser.reset(x, *tracked, sketch, at)
        ours = call("track", x, q, at, level=level)
        actual_q, z, actual = call("reset", x, *ours, sketch, at, level=level)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0, equal_nan=True)
        assert torch.equal(actual[2:], expected[2:])
        torch.testing.assert_close(z, subspace.project(x, actual_q), atol=1e-5, rtol=1e-5, equal_nan=True)
        if expected[ops.FIDELITY] > 0.5:  # the same subspace, whatever its basis
            torch.testing.assert_close(actual_q @ actual_q.mT, expected_q @ expected_q.mT, atol=2e-3, rtol=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("features", "rank"), [(64, 16), (256, 128), (20, 20)])
def test_columns_are_orthonormal_at_condition_1e5(features: int, rank: int, level: str) -> None:
    (q,) = call("orthonormalise", ill_conditioned(features, rank, 1e5), level=level)
    assert subspace.orthonormality_error(q).item() <= 1e-5
    assert q.any(0).all()


def test_well_conditioned_columns_become_those_of_eager() -> None:
    y = ill_conditioned(40, 10, 10.0)
    torch.testing.assert_close(call("orthonormalise", y)[0], subspace.orthonormalise(y), atol=1e-5, rtol=0)


def test_zero_and_surplus_columns_stay_zero() -> None:
    y = torch.eye(5)[:, [0, 0, 1, 4, 1]]
    y[:, 3] = 0
    (q,) = call("orthonormalise", y)
    assert torch.equal(q, torch.eye(5)[:, [0, 0, 1, 4, 1]] * torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_columns_that_are_not_finite_become_zero(bad: float) -> None:
    y = random(6, 3)
    y[0, 1] = bad
    (q,) = call("orthonormalise", y)
    assert q.isfinite().all()
    assert q.any(0).tolist() == [True, False, True]


@pytest.mark.parametrize("flags", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_weight_is_folded_as_in_eager(flags: tuple[float, float]) -> None:
    weight, at_hand, stats = random(5, 12), random(4, 5, seed=1), torch.tensor([1.0, 4.0, *flags, 0.0])
    (folded,) = call("fold", weight, BASES["random"], at_hand, stats)
    expected = torch.ops.laser.fold(weight, BASES["random"], at_hand, stats)
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(folded, at_hand) == (not any(flags))


@pytest.mark.parametrize("exact", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(12,), (7, 12), (2, 3, 12)])
def test_a_folded_linear_is_that_of_eager(shape: tuple[int, ...], exact: float) -> None:
    x, weight, bias, q = random(*shape), random(5, 12, seed=1), random(5, seed=2), BASES["random"]
    stats, z, folded = torch.tensor([1.0, 4.0, 0.0, 0.0, exact]), subspace.project(x, q), (weight @ q).mT.contiguous()
    for name, b in (("folded_linear", (bias,)), ("folded_linear_unbiased", ())):
        (y,) = call(name, x, weight, *b, folded, z, stats)
        expected = torch.ops.laser.folded_linear(x, weight, bias if b else None, folded, z, stats)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


OUTPUT_WEIGHT, OUTPUT_BIAS = random(9, 12, seed=20), random(9, seed=21)
PROBES = random(9, folded_ops.PROBES, seed=22)


def output_state(x: Tensor, threshold: float = 0.5) -> tuple[Tensor, ...]:
    """What an output site carries after a step on ``x``."""
    first = torch.zeros(9, 4), torch.zeros(12, 4), random(12, folded_ops.PROBES, seed=23)
    constants = subspace.sketch(9, 4, 9), PROBES, torch.tensor(threshold)
    return tuple(torch.ops.laser.output_linear(x, OUTPUT_WEIGHT, None, *first, *constants)[1:4])


OUTPUT_STATES = {
    "none": (torch.zeros(9, 4), torch.zeros(12, 4), random(12, folded_ops.PROBES, seed=23)),
    "of low rank": output_state(ACTIVATIONS["low rank"]),
    "of full rank": output_state(ACTIVATIONS["full rank"]),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("state", OUTPUT_STATES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_step_of_an_output_decides_measures_and_computes_as_eager(activation: str, state: str, level: str) -> None:
    x, sketch = ACTIVATIONS[activation], subspace.sketch(9, 4, 9)
    for threshold in (0.2, 0.8, 0.97, 2.0):  # at 1 two rows are kept but for rounding
        rest = *OUTPUT_STATES[state], sketch, PROBES, torch.tensor(threshold)
        expected_y, *expected, stats = torch.ops.laser.output_linear(x, OUTPUT_WEIGHT, OUTPUT_BIAS, *rest)
        y, *ours, measured = call("output_linear", x, OUTPUT_WEIGHT, OUTPUT_BIAS, *rest, level=level)
        torch.testing.assert_close(measured, stats, atol=1e-5, rtol=0, equal_nan=True)
        assert torch.equal(measured[2:], stats[2:])
        torch.testing.assert_close(y, expected_y, atol=1e-4, rtol=1e-4, equal_nan=True)
        v, down, _ = ours
        torch.testing.assert_close(down, OUTPUT_WEIGHT.mT @ v, atol=1e-5, rtol=1e-5)
        if stats[ops.FIDELITY] > 0.5:  # the same subspace, whatever its basis
            torch.testing.assert_close(v @ v.mT, expected[0] @ expected[0].mT, atol=2e-3, rtol=0)
        plain, *_ = call("output_linear_unbiased", x, OUTPUT_WEIGHT, *rest, level=level)
        torch.testing.assert_close(plain + OUTPUT_BIAS, y, atol=1e-5, rtol=1e-5, equal_nan=True)
