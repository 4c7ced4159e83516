"""Shapes, indexing, convolution and resizing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.errors import OpsetError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.operators.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.model import Shape


_SLICE_BOUNDS_ARE_INPUTS = 10
_PADS_ARE_INPUTS = 11
_UNSQUEEZE_AXES_ARE_INPUTS = 13
_SPLIT_SIZES_ARE_INPUTS = 13

LAST: Final = 2**31 - 1
"""Stop of a slice that goes to the end of an axis."""


class Shaping(Writer):
    """Concatenation, slicing, indexing and reordering of axes."""

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Concatenate float32 values along an axis; the first value determines the other sizes."""
        before = [self.shape_of(value) for value in values]
        sizes = [None if shape is None else shape[axis] for shape in before]
        total = sum(size for size in sizes if isinstance(size, int))
        whole = total if all(isinstance(size, int) for size in sizes) else None
        shape = None if before[0] is None else (*before[0][:axis], whole, *before[0][axis + 1 :])
        return self.node("Concat", values, {"axis": axis}, np.dtype(np.float32), shape)

    def gather(self, a: ir.Value, index: ir.Value, axis: int, shape: Shape | None = None) -> ir.Value:
        """Gather slices along an axis, which gets the shape of `index`; `shape` is that of the result, if known."""
        return self.node("Gather", [a, index], {"axis": axis}, self.dtype_of(a), shape)

    def look_up(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """Look up each int64 index in a one-dimensional constant; result in the shape of `index`."""
        return self.node("Gather", [table, index], {"axis": 0}, self.dtype_of(table), self.shape_of(index))

    def transpose(self, a: ir.Value, order: Sequence[int]) -> ir.Value:
        """Reorder the axes of a float32 value."""
        before = self.shape_of(a)
        shape = None if before is None else tuple(before[axis] for axis in order)
        return self.node("Transpose", [a], {"perm": list(order)}, np.dtype(np.float32), shape)

    def slice(
        self,
        a: ir.Value,
        starts: Sequence[int],
        stops: Sequence[int],
        axes: Sequence[int],
        shape: Shape | None = None,
    ) -> ir.Value:
        """Slice along some axes; negative bounds count from the end. `shape` is that of the result, if known."""
        dtype = self.dtype_of(a) or np.dtype(np.float32)
        shape = self._sliced(a, starts, stops, axes) if shape is None else shape
        if self.opset < _SLICE_BOUNDS_ARE_INPUTS:
            attributes = {"starts": list(starts), "ends": list(stops), "axes": list(axes)}
            return self.node("Slice", [a], attributes, dtype, shape)
        bounds = [
            self.constant(tuple(numbers), name)
            for numbers, name in ((starts, "starts"), (stops, "ends"), (axes, "axes"))
        ]
        return self.node("Slice", [a, *bounds], {}, dtype, shape)

    def after_first(self, a: ir.Value, places: int, axis: int, size: int) -> ir.Value:
        """Cut off the first places of an axis of this size, with Split: OpenVINO then need not copy the rest."""
        import onnx_ir as ir

        before = self.shape_of(a)
        sizes = (places, size - places)
        outputs = [
            ir.Value(
                name=self._fresh(f"Split_{name}"),
                type=a.type,
                shape=None if before is None else ir.Shape((*before[:axis], count, *before[axis + 1 :])),
            )
            for name, count in zip(("unread", "output"), sizes, strict=True)
        ]
        inputs, attributes = [a], {"axis": axis}
        if self.opset < _SPLIT_SIZES_ARE_INPUTS:
            attributes["split"] = list(sizes)  # type: ignore[assignment]
        else:
            inputs.append(self.constant(sizes, "sizes"))
        self._write(ir.node("Split", inputs, attributes, outputs=outputs, name=self._fresh("Split")))
        return outputs[1]

    def shortened(
        self, a: ir.Value, axes: Sequence[int], before: Sequence[int], behind: Sequence[int], shape: Shape | None = None
    ) -> ir.Value:
        """Remove places at the start (`before`) and end (`behind`) of some axes.

        `shape` is that of the result; None infers it from the known sizes.
        """
        known = self.shape_of(a)
        if shape is None and known is not None:
            lost = {axis: first + last for axis, first, last in zip(axes, before, behind, strict=True)}
            shape = tuple(_longer(dim, -lost[axis]) if lost.get(axis) else dim for axis, dim in enumerate(known))
        return self.slice(a, before, [-lost if lost else LAST for lost in behind], axes, shape)

    def pad(
        self, a: ir.Value, axes: Sequence[int], places: int, mode: Literal["reflect", "edge"], *, rank: int
    ) -> ir.Value:
        """Pad a float32 value of this rank by `places` at both ends of some axes.

        `reflect` mirrors without repeating the outermost place, and needs a size above `places`; `edge` repeats it.
        """
        before = self.shape_of(a)
        pads = [places if axis in axes else 0 for axis in range(rank)] * 2
        sizes = before and tuple(
            dim if axis not in axes else _longer(dim, 2 * places) for axis, dim in enumerate(before)
        )
        dtype = np.dtype(np.float32)
        if self.opset < _PADS_ARE_INPUTS:
            return self.node("Pad", [a], {"mode": mode, "pads": pads}, dtype, sizes)
        return self.node("Pad", [a, self.constant(tuple(pads), "pads")], {"mode": mode}, dtype, sizes)

    def pad_end(self, a: ir.Value, axis: int, places: int, *, rank: int, value: float = 0.0) -> ir.Value:
        """Append a number, by default zeros, at the end of one axis of a float32 value of this rank."""
        return self._pad(a, axis, places, rank + axis, rank, value)

    def pad_start(self, a: ir.Value, axis: int, places: int, *, rank: int) -> ir.Value:
        """Insert zeros at the start of one axis of a float32 value of this rank."""
        return self._pad(a, axis, places, axis, rank, 0.0)

    def _pad(self, a: ir.Value, axis: int, places: int, entry: int, rank: int, value: float) -> ir.Value:
        before = self.shape_of(a)
        pads = [places if index == entry else 0 for index in range(2 * rank)]
        sizes = before and tuple(dim if at != axis else _longer(dim, places) for at, dim in enumerate(before))
        dtype = np.dtype(np.float32)
        if self.opset < _PADS_ARE_INPUTS:
            return self.node("Pad", [a], {"mode": "constant", "pads": pads, "value": value}, dtype, sizes)
        inputs = [a, self.constant(tuple(pads), "pads")]
        if value:
            inputs.append(self.constant(np.float32(value), "padding"))
        return self.node("Pad", inputs, {"mode": "constant"}, dtype, sizes)

    def _sliced(self, a: ir.Value, starts: Sequence[int], stops: Sequence[int], axes: Sequence[int]) -> Shape | None:
        """Shape of a slice, None for unknown sizes."""
        before = self.shape_of(a)
        if before is None:
            return None
        sizes = list(before)
        for start, stop, axis in zip(starts, stops, axes, strict=True):
            size = before[axis]
            sizes[axis] = len(range(*slice(start, stop).indices(size))) if isinstance(size, int) else None
        return tuple(sizes)

    def reshape(self, a: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape a float32 value; 0 keeps a size and -1 is inferred."""
        before = self.shape_of(a)
        sizes = [before[axis] if before is not None and not size else size for axis, size in enumerate(shape)]
        known = tuple(None if size in (-1, 0) else size for size in sizes)
        return self.node("Reshape", [a, self.constant(tuple(shape), "shape")], {}, np.dtype(np.float32), known)

    def unsqueeze(self, a: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Insert axes of size 1 at these positions of the result, ascending."""
        for axis in axes:  # one at a time, because OpenCV's dnn inserts no more at once
            before = self.shape_of(a)
            shape = None if before is None else (*before[:axis], 1, *before[axis:])
            a = self._reshaped("Unsqueeze", a, axis, shape)
        return a

    def repeated(self, a: ir.Value, axis: int, count: int, *, rank: int) -> ir.Value:
        """Repeat a value of this rank along an axis of size 1."""
        before = self.shape_of(a)
        sizes = tuple(count if place == axis else 1 for place in range(rank))
        shape = None if before is None else (*before[:axis], count, *before[axis + 1 :])
        return self.node("Expand", [a, self.constant(sizes, "sizes")], {}, self.dtype_of(a), shape)

    def squeeze(self, a: ir.Value, axis: int) -> ir.Value:
        """Remove an axis of size 1."""
        before = self.shape_of(a)
        return self._reshaped("Squeeze", a, axis, before and [*before[:axis], *before[axis + 1 :]])

    def _reshaped(self, kind: str, a: ir.Value, axis: int, shape: Sequence[int | str | None] | None) -> ir.Value:
        known = None if shape is None else tuple(shape)
        dtype = self.dtype_of(a) or np.dtype(np.float32)
        if self.opset < _UNSQUEEZE_AXES_ARE_INPUTS:
            return self.node(kind, [a], {"axes": [axis]}, dtype, known)
        return self.node(kind, [a, self.constant((axis,), "axes")], {}, dtype, known)


def _longer(dim: int | str | None, places: int) -> int | None:
    return dim + places if isinstance(dim, int) else None


_RESIZE_TAKES_SIZES = 11
_RESIZE_INPUTS_ARE_OPTIONAL = 13


class Spatial(Shaping):
    """Convolution and resizing."""

    def convolution(self, a: ir.Value, kernel: ir.Value, **attributes: int | list[int]) -> ir.Value:
        """Convolve the last two axes, float32; by default without padding, with stride 1 and one group."""
        return self.node("Conv", [a, kernel], attributes, np.dtype(np.float32), None)

    def greatest_around(self, a: ir.Value, height: int, width: int) -> ir.Value:
        """Maximum in a window of odd sizes around each pixel of (N,C,H,W), float32; ignores pixels outside the map.

        What NaN becomes depends on the runtime.
        """
        pads = [height // 2, width // 2] * 2
        attributes = {"kernel_shape": [height, width], "pads": pads, "strides": [1, 1]}
        return self.node("MaxPool", [a], attributes, np.dtype(np.float32), self.shape_of(a))

    def resize(self, a: ir.Value, height: int, width: int) -> ir.Value:
        """Resize (N,C,H,W), float32, bilinear between the centres of pixels.

        Raises:
            OpsetError: The opset is too low.
        """
        if self.opset < _RESIZE_TAKES_SIZES:
            raise OpsetError(
                f"The model is at opset {self.opset}, expected {_RESIZE_TAKES_SIZES} or later to resize its map. "
                f"Fuse with {HOW_TO_RAISE}, export it again with opset_version={_RESIZE_TAKES_SIZES} or later, or "
                "leave out --map-size."
            )
        whole = self.node("Shape", [a], {}, np.dtype(np.int64), (4,))
        bounds = [self.constant((number,), name) for number, name in ((0, "start"), (2, "end"), (0, "axis"))]
        kept = self.node("Slice", [whole, *bounds], {}, np.dtype(np.int64), (2,))
        size = self.constant((height, width), "size")
        sizes = self.node("Concat", [kept, size], {"axis": 0}, np.dtype(np.int64), (4,))
        # Opsets 11 and 12 require the region of interest, and ignore it.
        roi = self.array(np.empty(0), "no_region")
        scales = self.array(np.empty(0), "no_scales") if self.opset < _RESIZE_INPUTS_ARE_OPTIONAL else None
        roi_or_none = roi if scales is not None else None
        before = self.shape_of(a)
        shape = None if before is None else (*before[:2], height, width)
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.node("Resize", [a, roi_or_none, scales, sizes], attributes, np.dtype(np.float32), shape)
