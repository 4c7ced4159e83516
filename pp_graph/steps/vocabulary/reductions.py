"""Operators that sum or choose over axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pp_graph.steps.vocabulary.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir


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
