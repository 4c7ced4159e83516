"""Element by element, and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pp_graph.steps.operators.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir


_CLIP_BOUNDS_ARE_INPUTS = 11
_LESS_OR_EQUAL = 12


class Elementwise(Writer):
    """Arithmetic, comparison and choice."""

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a + b`, of one element type; `b` broadcasts to `a`."""
        dtype = np.dtype(np.float32) if a.dtype is None else a.dtype.numpy()
        return self.node("Add", [a, b], {}, dtype, self.shape_of(a))

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a - b`; `b` broadcasts to `a`."""
        return self.node("Sub", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a * b`; `b` broadcasts to `a`."""
        return self.node("Mul", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a / b`; `b` broadcasts to `a`."""
        return self.node("Div", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def exp(self, a: ir.Value) -> ir.Value:
        """`e` to the power of `a`. What NaN becomes depends on the runtime."""
        return self.node("Exp", [a], {}, np.dtype(np.float32), self.shape_of(a))

    def clip(self, a: ir.Value, low: float, high: float) -> ir.Value:
        """Limit `a` to [low, high]. What NaN becomes depends on the runtime."""
        dtype = np.dtype(np.float32)
        if self.opset < _CLIP_BOUNDS_ARE_INPUTS:
            return self.node("Clip", [a], {"min": low, "max": high}, dtype, self.shape_of(a))
        bounds = [self.constant(np.float32(low), "low"), self.constant(np.float32(high), "high")]
        return self.node("Clip", [a, *bounds], {}, dtype, self.shape_of(a))

    def minimum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of each two, of one shape. What NaN becomes depends on the runtime."""
        return self.node("Min", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of each two, of one shape. What NaN becomes depends on the runtime."""
        return self.node("Max", [a, b], {}, np.dtype(np.float32), self.shape_of(a))

    def less(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a < b`, false for NaN if `b` is a constant; the constant of the two broadcasts."""
        shape = self.shape_of(b if self.is_constant(a) else a)
        return self.node("Less", [a, b], {}, np.dtype(np.bool_), shape)

    def less_or_equal(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a <= b`, false where either is NaN, of the shape of `b`; `a` is a scalar."""
        dtype = np.dtype(np.bool_)
        if self.opset >= _LESS_OR_EQUAL:
            return self.node("LessOrEqual", [a, b], {}, dtype, self.shape_of(b))
        not_above = self.logical_not(self.node("Less", [b, a], {}, dtype, self.shape_of(b)))
        number = self.logical_not(self.is_nan(a))
        return self.logical_and(self.logical_and(not_above, number), self.logical_not(self.is_nan(b)))

    def is_nan(self, a: ir.Value) -> ir.Value:
        """Mark NaN."""
        return self.node("IsNaN", [a], {}, np.dtype(np.bool_), self.shape_of(a))

    def logical_not(self, a: ir.Value) -> ir.Value:
        """`not a`."""
        return self.node("Not", [a], {}, np.dtype(np.bool_), self.shape_of(a))

    def logical_and(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a and b`; `b` broadcasts to `a`."""
        return self.node("And", [a, b], {}, np.dtype(np.bool_), self.shape_of(a))

    def logical_or(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a or b`, of one shape."""
        return self.node("Or", [a, b], {}, np.dtype(np.bool_), self.shape_of(a))

    def where(self, condition: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a` where the condition holds, else `b`, of one element type; both broadcast to the condition."""
        dtype = np.dtype(np.float32) if a.dtype is None else a.dtype.numpy()
        return self.node("Where", [condition, a, b], {}, dtype, self.shape_of(condition))

    def cast(self, a: ir.Value, dtype: np.dtype[np.generic]) -> ir.Value:
        """Convert to another element type."""
        import onnx_ir as ir

        to = ir.DataType.from_numpy(dtype)
        return self.node("Cast", [a], {"to": to.value}, dtype, self.shape_of(a))

    def unchanged(self, a: ir.Value) -> ir.Value:
        """`a` under a name of its own, of any element type."""
        return self.node("Identity", [a], {}, None if a.dtype is None else a.dtype.numpy(), self.shape_of(a))

    def identity(self, a: ir.Value) -> ir.Value:
        """`a` under a name of its own; float32."""
        return self.node("Identity", [a], {}, np.dtype(np.float32), self.shape_of(a))


_REDUCE_AXES_ARE_INPUTS = {"ReduceSum": 13, "ReduceMax": 18, "ReduceMin": 18, "ReduceMean": 18, "ReduceL2": 18}
_TOP_K_COUNT_IS_INPUT = 10


class Reductions(Writer):
    """Sums, maxima and products over axes."""

    def reduce(
        self,
        kind: Literal["ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum", "ReduceMean"],
        a: ir.Value,
        axes: Sequence[int],
        *,
        keepdims: bool = False,
    ) -> ir.Value:
        """Maximum, minimum, root of the sum of squares, sum or mean over some axes, which disappear or keep size 1.

        What ReduceMax and ReduceMin make of NaN depends on the runtime; the sums spread it.
        """
        shape = self.shape_of(a)
        left = None
        if shape is not None:
            left = tuple(1 if axis in axes else dim for axis, dim in enumerate(shape) if keepdims or axis not in axes)
        dtype = np.dtype(np.float32)
        attributes: dict[str, int] = {"keepdims": int(keepdims)}
        if self.opset < _REDUCE_AXES_ARE_INPUTS[kind]:
            return self.node(kind, [a], {"axes": list(axes), **attributes}, dtype, left)
        return self.node(kind, [a, self.constant(tuple(axes), "axes")], attributes, dtype, left)

    def top_k(self, a: ir.Value, k: int, axis: int) -> ir.Value:
        """The `k` largest numbers along an axis, in falling order; where NaN goes depends on the runtime."""
        before = self.shape_of(a)
        shape = None if before is None else (*before[:axis], k, *before[axis + 1 :])
        if self.opset < _TOP_K_COUNT_IS_INPUT:
            return self.node("TopK", [a], {"k": k, "axis": axis}, np.dtype(np.float32), shape)
        count = self.constant((k,), "k")
        return self.node("TopK", [a, count], {"axis": axis}, np.dtype(np.float32), shape)

    def matmul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a @ b`, over the last two axes; float32."""
        return self.node("MatMul", [a, b], {}, np.dtype(np.float32), None)
