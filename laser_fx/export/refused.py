"""What ONNX's own checker has against a graph, said so that a person can do something about it."""

from __future__ import annotations

import re

from onnx import defs

from laser_fx.errors import ExportError

__all__ = ["refused_graph"]

_DTYPE = re.compile(r"op_type:(\w+), node name: ([^)]*)\): \w+ typestr: (\w+), has unsupported type: (tensor\(\w+\))")


def refused_graph(said: str) -> ExportError:
    """The error for a graph that the checker refuses.

    Args:
        said: by the checker.

    >>> said = "(op_type:Sin, node name: sin/Sin): input typestr: T, has unsupported type: tensor(bfloat16)"
    >>> refused_graph(said).fix
    'export with opset=22 or later, or cast the model to float32'
    """
    found = _DTYPE.search(said)
    if found is None:
        return ExportError(f"the ONNX checker refuses the graph: {said}", fix="report this model as a defect")
    operator, node, letter, kind = found.groups()
    opset = _first_opset(operator, letter, kind)
    newer = "" if opset is None else f"export with opset={opset} or later, or "
    dtype = kind.removeprefix("tensor(").removesuffix(")")
    return ExportError(
        f"{operator} takes no {dtype} in this opset of ONNX",
        where=f"node {node!r}",
        fix=f"{newer}cast the model to float32",
    )


def _first_opset(operator: str, letter: str, kind: str) -> int | None:
    """The first version of ONNX in which the operator takes that dtype."""
    schemas = (s for s in defs.get_all_schemas_with_history() if s.name == operator and not s.domain)
    takes = (
        s for s in schemas for c in s.type_constraints if c.type_param_str == letter and kind in c.allowed_type_strs
    )
    return min((int(schema.since_version) for schema in takes), default=None)
