"""Evaluate the parts of a graph that compute small constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.model.constants import Array, evaluate, read_constant_node

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST: Final = 16
_ARITHMETIC: Final = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Concat", "Div", "Equal", "Gather", "Greater", "Identity", "IsInf", "IsNaN",
    "Less", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "ReduceMax", "ReduceMin", "Reshape", "Shape", "Slice",
    "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose output is no larger than the product of their inputs' sizes."""
_SHAPED: Final = {"ConstantOfShape": 0, "Expand": 1}
"""Operators whose output shape is an input, with the index of that input."""
_DEEPEST: Final = 32
"""Longest chain of operators to follow; Anomalib's has seven."""


class GraphConstants:
    """Small constants of a graph, computed on demand.

    Args:
        opset: Version of the default ONNX domain.
    """

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._known: dict[ir.Value, Array | None] = {}

    def number(self, value: ir.Value | None) -> Array | None:
        """Constant number of a value, a scalar of its own type; None if it is not constant or not a single number."""
        array = self._array(value, _DEEPEST)
        return None if array is None or array.size != 1 else array.reshape(())

    def equals(self, value: ir.Value | None, expected: float) -> bool:
        """True if a value is a constant equal to a number."""
        number = self.number(value)
        return number is not None and number.dtype.kind in "fiu" and bool(number == expected)

    def truth(self, value: ir.Value | None) -> bool | None:
        """Constant truth value of a condition; None if it is not constant."""
        number = self.number(value)
        return None if number is None or number.dtype.kind != "b" else bool(number)

    def _array(self, value: ir.Value | None, deepest: int) -> Array | None:
        if value is None or deepest == 0:
            return None
        if value not in self._known:
            self._known[value] = self._compute(value, deepest)
        return self._known[value]

    def _compute(self, value: ir.Value, deepest: int) -> Array | None:
        tensor = value.const_value
        if tensor is not None:
            return np.asarray(tensor.numpy()) if tensor.size <= _LARGEST else None
        node = value.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type == "Constant":
            return read_constant_node(node)
        if any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values()):
            return None
        inputs = {value.name or "": self._array(value, deepest - 1) for value in node.inputs if value is not None}
        known = {name: array for name, array in inputs.items() if array is not None}
        if len(known) < len(inputs) or not inputs:
            return None
        if node.op_type in _SHAPED:
            sizes = known.get(getattr(node.inputs[_SHAPED[node.op_type]], "name", None) or "")
            if sizes is None or np.prod(np.abs(sizes.astype(np.float64))) > _LARGEST:
                return None
        elif node.op_type not in _ARITHMETIC:
            return None
        with np.errstate(all="ignore"):
            result = evaluate(node, known, self._opset)
        return None if result is None or result.size > _LARGEST else result
