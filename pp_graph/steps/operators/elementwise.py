"""Elementwise operators and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pp_graph.steps.operators.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir


_FLOAT32, _BOOL = np.dtype(np.float32), np.dtype(np.bool_)
_CLIP_BOUNDS_ARE_INPUTS = 11
_LESS_OR_EQUAL = 12


class Elementwise(Writer):
    """Arithmetic, comparison and choice."""

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a + b`, of one element type; `b` broadcasts to `a`."""
        return self.node("Add", [a, b], {}, self.dtype_of(a) or _FLOAT32, self.shape_of(a))

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a - b`; `b` broadcasts to `a`."""
        return self.node("Sub", [a, b], {}, _FLOAT32, self.shape_of(a))

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a * b`, of one element type; `b` broadcasts to `a`."""
        return self.node("Mul", [a, b], {}, self.dtype_of(a) or _FLOAT32, self.shape_of(a))

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a / b`; `b` broadcasts to `a`."""
        return self.node("Div", [a, b], {}, _FLOAT32, self.shape_of(a))

    def exp(self, a: ir.Value) -> ir.Value:
        """`e` to the power of `a`. What NaN becomes depends on the runtime."""
        return self.node("Exp", [a], {}, _FLOAT32, self.shape_of(a))

    def clip(self, a: ir.Value, low: float, high: float) -> ir.Value:
        """Limit `a` to [low, high]. What NaN becomes depends on the runtime."""
        if self.opset < _CLIP_BOUNDS_ARE_INPUTS:
            return self.node("Clip", [a], {"min": low, "max": high}, _FLOAT32, self.shape_of(a))
        bounds = [self.constant(np.float32(low), "low"), self.constant(np.float32(high), "high")]
        return self.node("Clip", [a, *bounds], {}, _FLOAT32, self.shape_of(a))

    def minimum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Minimum of `a` and `b`, of one shape. What NaN becomes depends on the runtime."""
        return self.node("Min", [a, b], {}, _FLOAT32, self.shape_of(a))

    def maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Maximum of `a` and `b`, of one shape. What NaN becomes depends on the runtime."""
        return self.node("Max", [a, b], {}, _FLOAT32, self.shape_of(a))

    def less(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a < b`; if one is a constant, it broadcasts. False for NaN compared with a constant."""
        shape = self.shape_of(b if self.is_constant(a) else a)
        return self.node("Less", [a, b], {}, _BOOL, shape)

    def below_other(self, a: ir.Value, b: ir.Value, like: ir.Value) -> ir.Value:
        """`a < b`, where the result has the shape of `like`; both broadcast to it."""
        return self.node("Less", [a, b], {}, _BOOL, self.shape_of(like))

    def less_or_equal(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a <= b` for a scalar `a`; false if either is NaN."""
        if self.opset >= _LESS_OR_EQUAL:
            return self.node("LessOrEqual", [a, b], {}, _BOOL, self.shape_of(b))
        not_above = self.logical_not(self.node("Less", [b, a], {}, _BOOL, self.shape_of(b)))
        number = self.logical_not(self.is_nan(a))
        return self.logical_and(self.logical_and(not_above, number), self.logical_not(self.is_nan(b)))

    def is_nan(self, a: ir.Value) -> ir.Value:
        """Mark NaN."""
        return self.node("IsNaN", [a], {}, _BOOL, self.shape_of(a))

    def logical_not(self, a: ir.Value) -> ir.Value:
        """`not a`."""
        return self.node("Not", [a], {}, _BOOL, self.shape_of(a))

    def logical_and(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a and b`; `b` broadcasts to `a`."""
        return self.node("And", [a, b], {}, _BOOL, self.shape_of(a))

    def logical_or(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a or b`, of one shape."""
        return self.node("Or", [a, b], {}, _BOOL, self.shape_of(a))

    def where(self, condition: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a` where the condition is true, else `b`, of one element type; both broadcast to the condition."""
        dtype = self.dtype_of(a) or _FLOAT32
        return self.node("Where", [condition, a, b], {}, dtype, self.shape_of(condition))

    def cast(self, a: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
        """Convert to a different element type."""
        import onnx_ir as ir

        to = ir.DataType.from_numpy(dtype)
        return self.node("Cast", [a], {"to": to.value}, dtype, self.shape_of(a))

    def unchanged(self, a: ir.Value) -> ir.Value:
        """`a` under a new name."""
        return self.node("Identity", [a], {}, self.dtype_of(a), self.shape_of(a))


_REDUCE_AXES_ARE_INPUTS = {"ReduceSum": 13, "ReduceMax": 18, "ReduceMin": 18, "ReduceMean": 18, "ReduceL2": 18}
_TOP_K_COUNT_IS_INPUT = 10


class Reductions(Writer):
    """Reductions over axes, and matrix products."""

    def reduce(
        self,
        kind: Literal["ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum", "ReduceMean"],
        a: ir.Value,
        axes: Sequence[int],
        *,
        keepdims: bool = False,
    ) -> ir.Value:
        """Reduce over some axes, which are removed or keep size 1.

        ReduceL2 is the root of the sum of squares. What ReduceMax and ReduceMin make of NaN depends on the runtime; the
        others propagate it.
        """
        shape = self.shape_of(a)
        reduced = None
        if shape is not None:
            reduced = tuple(
                1 if axis in axes else dim for axis, dim in enumerate(shape) if keepdims or axis not in axes
            )
        attributes: dict[str, int] = {"keepdims": int(keepdims)}
        if self.opset < _REDUCE_AXES_ARE_INPUTS[kind]:
            return self.node(kind, [a], {"axes": list(axes), **attributes}, _FLOAT32, reduced)
        return self.node(kind, [a, self.constant(tuple(axes), "axes")], attributes, _FLOAT32, reduced)

    def top_k(self, a: ir.Value, k: int, axis: int) -> ir.Value:
        """The `k` largest numbers along an axis, in descending order; the place of NaN depends on the runtime."""
        before = self.shape_of(a)
        shape = None if before is None else (*before[:axis], k, *before[axis + 1 :])
        if self.opset < _TOP_K_COUNT_IS_INPUT:
            return self.node("TopK", [a], {"k": k, "axis": axis}, _FLOAT32, shape)
        count = self.constant((k,), "k")
        return self.node("TopK", [a, count], {"axis": axis}, _FLOAT32, shape)

    def top_k_places(self, a: ir.Value, k: int, axis: int) -> tuple[ir.Value, ir.Value]:
        """The `k` largest numbers and their indices, int64; equal numbers come in any order. From opset 10 on."""
        import onnx_ir as ir

        before = self.shape_of(a)
        shape = None if before is None else ir.Shape((*before[:axis], k, *before[axis + 1 :]))
        outputs = [
            ir.Value(name=self._fresh(f"TopK_{name}"), type=ir.TensorType(kind), shape=shape)
            for name, kind in (("output", ir.DataType.FLOAT), ("places", ir.DataType.INT64))
        ]
        count = self.constant((k,), "k")
        self._write(ir.node("TopK", [a, count], {"axis": axis}, outputs=outputs, name=self._fresh("TopK")))
        return outputs[0], outputs[1]

    def matmul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a @ b`, float32."""
        return self.node("MatMul", [a, b], {}, _FLOAT32, None)
