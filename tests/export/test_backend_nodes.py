"""ONNX's own node tests, on the installed ONNX Runtime, for every operator that files of ours are made of."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case import node as cases

from laser_fx import export
from tests.export.operators import OPERATORS

_DTYPES = {
    getattr(TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64")
}
"""Exports of models in bfloat16 and smaller dtypes are not for the CPU."""

_WRITTEN = 20
"""The opset that files of ours have by default; ONNX IR 10 goes with it."""
_NEWER = re.compile(r"test_(cast_(FLOAT|FLOAT16|DOUBLE)_to_(FLOAT|FLOAT16|DOUBLE)|range_\w+)")
"""Written in an opset that this ONNX Runtime does not know yet: they are run in ours."""

KNOWN = {
    "test_max_int16": "no kernel for int16",
    "test_min_int16": "no kernel for int16",
    "test_range_float16_type_positive_delta": "float16 is of a later opset",
    "test_reduce_max_empty_set_bool": "not defined for an empty set of truth values",
}
"""Tests that ONNX Runtime fails, each with the reason; one that passes has to be taken out."""


def _modules() -> Iterator[str]:
    wanted = {name.lower() for name in OPERATORS}
    for module in pkgutil.iter_modules(cases.__path__):
        name = module.name.replace("_", "")
        if {name, name.removesuffix("op")} & wanted:  # rangeop.py
            yield module.name


def _collected() -> dict[str, Any]:
    """The tests by name; importing a module of theirs makes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they overflow and divide by zero on purpose
        for name in _modules():
            importlib.import_module(f"{cases.__name__}.{name}")
    found = [test for test in cases._NodeTestCases if _is_of_ours(test.model)]
    return {test.name: test for test in found}


def _is_of_ours(model: onnx.ModelProto) -> bool:
    operators = {node.op_type for node in model.graph.node if not node.domain}
    values = (*model.graph.input, *model.graph.output)
    dtypes = {value.type.tensor_type.elem_type for value in values}
    return bool(operators & OPERATORS) and dtypes <= _DTYPES


TESTS = _collected()


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _in_our_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = 10
    for opset in made.opset_import:
        opset.version = _WRITTEN
    return made


def test_every_operator_has_tests() -> None:
    """All but those which ONNX itself has none for."""
    tested = {node.op_type for test in TESTS.values() for node in test.model.graph.node}
    assert OPERATORS - tested <= {"Constant"}


def _written() -> Iterator[str]:
    """Operators that the exporter writes by itself: ``….node("Or", …)``, and ``op.Add(…)`` in functions."""
    for path in Path(export.__file__).parent.glob("*.py"):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        for call in calls:
            function, first = call.func, call.args[0] if call.args else None
            if not isinstance(function, ast.Attribute):
                continue
            if function.attr == "node" and isinstance(first, ast.Constant):
                yield str(first.value)
            elif isinstance(function.value, ast.Name) and function.value.id == "op" and function.attr[0].isupper():
                yield function.attr


def test_what_the_exporter_writes_by_itself_is_listed() -> None:
    assert {"Or", "GatherND", "CumSum"} <= set(_written()) <= OPERATORS


def test_known_failures_are_tests() -> None:
    assert set(KNOWN) <= set(TESTS)


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_onnx_runtime_computes_what_onnx_says(name: str, level: str, request: pytest.FixtureRequest) -> None:
    if name in KNOWN:
        request.applymarker(pytest.mark.xfail(reason=KNOWN[name], strict=True))
    test = TESTS[name]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    model = _in_our_opset(test.model) if _NEWER.fullmatch(name) else test.model
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for inputs, outputs in test.data_sets:
        feed = {value.name: _array(x) for value, x in zip(session.get_inputs(), inputs, strict=True)}
        for answer, expected in zip(session.run(None, feed), map(_array, outputs), strict=True):
            np.testing.assert_allclose(answer, expected, rtol=test.rtol, atol=test.atol)
            assert np.asarray(answer).dtype == np.asarray(expected).dtype
