"""Writes nodes into a graph that is built already, with names, dtypes and shapes as the builder gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

__all__ = ["Writer"]


@dataclass(frozen=True)
class Writer:
    """Appends to one graph; constants go to the main graph, where all of them are.

    Args:
        main: the main graph.
        graph: the graph that gets the nodes: the main one, or the body of a loop.
        prefix: put before every name.

    >>> import numpy as np
    >>> main = ir.Graph([], [], nodes=[], opset_imports={"": 20})
    >>> write = Writer(main, main, "halting/")
    >>> one = write.constant(np.array(1.0, np.float32), "one")
    >>> write.node("Neg", [one], "negative", ir.DataType.FLOAT, []).name, [node.op_type for node in main]
    ('halting/negative', ['Neg'])
    """

    main: ir.Graph
    graph: ir.Graph
    prefix: str

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType | None,
        shape: ir.Shape | Sequence[int | str | None] | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """A node with one output; the value bears the node's name."""
        node = ir.node(op_type, inputs, attributes, name=f"{self.prefix}{name}")
        (value,) = node.outputs
        value.name = node.name
        value.type = None if dtype is None else ir.TensorType(dtype)
        value.shape = shape if shape is None or isinstance(shape, ir.Shape) else ir.Shape(shape)
        self.graph.append(node)
        return value

    def constant(self, content: npt.NDArray[Any], name: str, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer of the main graph.

        Args:
            content: its value.
            name: without the prefix; the same name and content twice is one initializer.
            dtype: for dtypes that numpy does not have by itself.
        """
        name = f"{self.prefix}{name}"
        if name not in self.main.initializers:
            tensor = ir.tensor(content, dtype=dtype, name=name)
            shape = ir.Shape(content.shape)
            self.main.register_initializer(
                ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
            )
        return self.main.initializers[name]
