"""An ONNX graph while it is written: nodes, constants, and names that are never given twice."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dlflow.nn.params import Array

__all__ = ["Writer"]


class Writer:
    """Nodes in the order in which they are added; every method gives the name of what its node makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._count = 0

    def name(self, hint: str) -> str:
        """A new name."""
        self._count += 1
        return f"/{hint.lower()}_{self._count}"  # no input is called so

    def constant(self, value: Array | Sequence[int] | float, hint: str = "constant") -> str:
        """Floats as float32, whole numbers as int64."""
        array = np.asarray(value)
        array = np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)
        name = self.name(hint)
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        return self.add_many(op, 1, *inputs, **attributes)[0]

    def add_many(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        names = [self.name(op) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def transpose(self, x: str, *axes: int) -> str:
        """The axes in another order."""
        return self.add("Transpose", x, perm=list(axes))

    def reshape(self, x: str, *shape: int) -> str:
        """Another shape; 0 is the length that the axis has."""
        return self.add("Reshape", x, self.constant(list(shape), "shape"))

    def reverse(self, x: str, axis: int) -> str:
        """The axis backwards."""
        ends = (self.constant([value], "slice") for value in (-1, np.iinfo(np.int64).min, axis, -1))
        return self.add("Slice", x, *ends)
