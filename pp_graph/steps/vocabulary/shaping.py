"""Operators that move numbers, and change none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.vocabulary.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir


_SLICE_BOUNDS_ARE_INPUTS = 10
_UNSQUEEZE_AXES_ARE_INPUTS = 13


class Shaping(Writer):
    """Joining, cutting and reordering axes."""

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values one after the other along an axis, of which the first shows all other sizes; float32."""
        before = [self.shape_of(value) for value in values]
        sizes = [None if shape is None else shape[axis] for shape in before]
        total = sum(size for size in sizes if isinstance(size, int))
        whole = total if all(isinstance(size, int) for size in sizes) else None
        shape = None if before[0] is None else (*before[0][:axis], whole, *before[0][axis + 1 :])
        return self.node("Concat", values, {"axis": axis}, np.dtype(np.float32), shape)

    def gather(self, a: ir.Value, index: ir.Value, axis: int) -> ir.Value:
        """What lies at some places along an axis, which takes the shape of `index`."""
        return self.node("Gather", [a, index], {"axis": axis}, None, None)

    def transpose(self, a: ir.Value, order: Sequence[int]) -> ir.Value:
        """The axes in another order; float32."""
        before = self.shape_of(a)
        shape = None if before is None else tuple(before[axis] for axis in order)
        return self.node("Transpose", [a], {"perm": list(order)}, np.dtype(np.float32), shape)

    def slice(self, a: ir.Value, starts: Sequence[int], stops: Sequence[int], axes: Sequence[int]) -> ir.Value:
        """A cut along some axes; float32."""
        if self.opset < _SLICE_BOUNDS_ARE_INPUTS:
            attributes = {"starts": list(starts), "ends": list(stops), "axes": list(axes)}
            return self.node("Slice", [a], attributes, np.dtype(np.float32), None)
        bounds = [
            self.constant(tuple(each), name) for each, name in ((starts, "starts"), (stops, "ends"), (axes, "axes"))
        ]
        return self.node("Slice", [a, *bounds], {}, np.dtype(np.float32), None)

    def unsqueeze(self, a: ir.Value, axes: Sequence[int]) -> ir.Value:
        """New axes of size 1 at these places of the result, in rising order."""
        before = self.shape_of(a)
        shape: list[int | str | None] = list(before or ())
        for axis in axes:
            shape.insert(axis, 1)
        return self._reshaped("Unsqueeze", a, axes, None if before is None else shape)

    def squeeze(self, a: ir.Value, axis: int) -> ir.Value:
        """Without an axis of size 1."""
        before = self.shape_of(a)
        return self._reshaped("Squeeze", a, (axis,), before and [*before[:axis], *before[axis + 1 :]])

    def _reshaped(
        self, kind: str, a: ir.Value, axes: Sequence[int], shape: Sequence[int | str | None] | None
    ) -> ir.Value:
        known = None if shape is None else tuple(shape)
        dtype = np.dtype(np.float32) if a.dtype is None else a.dtype.numpy()
        if self.opset < _UNSQUEEZE_AXES_ARE_INPUTS:
            return self.node(kind, [a], {"axes": list(axes)}, dtype, known)
        return self.node(kind, [a, self.constant(tuple(axes), "axes")], {}, dtype, known)
